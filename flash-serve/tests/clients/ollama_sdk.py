"""ollama-python: chat, generate, show, list, ps, pull, embed."""

import ollama
from check import MODEL, URL, check, raises, run

client = ollama.Client(host=URL)


def get_weather(city: str) -> str:
    """Weather.

    Args:
        city: The city.
    """
    return city


def chat(text, **more):
    return client.chat(model=MODEL, messages=[{"role": "user", "content": text}], **more)


@check
def chat_whole_and_streamed():
    answer = chat("hi", options={"temperature": 0.5, "num_ctx": 4096})
    assert answer.message.content == "Hello" and answer.done_reason == "stop" and answer.eval_count == 5
    assert "".join(part.message.content for part in chat("hi", stream=True)) == "Hello"


@check
def thinking_is_apart():
    answer = chat("think", think=True)
    assert (answer.message.thinking, answer.message.content) == ("Let me think.", "Hello")
    assert "".join(part.message.thinking or "" for part in chat("think", think="low", stream=True)) == "Let me think."


@check
def tools_in_a_loop():
    answer = chat("weather in two cities", tools=[get_weather])
    assert [call.function.arguments for call in answer.message.tool_calls] == [{"city": "Rome"}, {"city": "Zürich"}]
    messages = [{"role": "user", "content": "weather"}, answer.message, {"role": "tool", "content": "sunny", "tool_name": "get_weather"}]
    assert client.chat(model=MODEL, messages=messages).message.content == "The tool says: sunny"
    calls = [part.message.tool_calls for part in chat("weather", tools=[get_weather], stream=True)]
    assert sum(len(part or []) for part in calls) == 1


@check
def formats_are_taken():
    assert chat("hi", format="json").message.content == '{"city":"Rome"}'
    assert chat("hi", format={"type": "object"}).message.content == '{"city":"Rome"}'


@check
def generate_whole_and_streamed():
    assert client.generate(model=MODEL, prompt="hi").response == "Hello"
    assert "".join(part.response for part in client.generate(model=MODEL, prompt="slow", stream=True)) == "slowHello"


@check
def an_empty_prompt_loads():
    assert client.generate(model=MODEL, keep_alive="5m").done_reason == "load"


@check
def models_are_listed_and_shown():
    assert [model.model for model in client.list().models] == [MODEL, "plain"]
    shown = client.show(MODEL)
    assert shown.modelinfo["qwen3.context_length"] == 32768 and "tools" in shown.capabilities
    assert client.ps().models[0].expires_at is not None


@check
def texts_are_embedded():
    assert client.embed(model=MODEL, input=["a", "b"]).embeddings == [[1.0, -0.5], [1.0, -0.5]]


@check
def downloads_report_progress():
    assert [step.status for step in client.pull("new", stream=True)] == ["pulling", "pulling", "success"]


@check
def errors_before_the_headers_are_typed():
    assert raises(ollama.ResponseError, lambda: client.chat(model="none", messages=[])).status_code == 404
    assert raises(ollama.ResponseError, lambda: chat("too long")).status_code == 400
    assert raises(ollama.ResponseError, lambda: chat("hi", options={"mirostat": 2})).error == "options.mirostat: is not supported"


@check
def an_error_after_the_headers_raises():
    error = raises(ollama.ResponseError, lambda: list(chat("fail late", stream=True)))
    assert "the disk is gone" in error.error


run("ollama")
