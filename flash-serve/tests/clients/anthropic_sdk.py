"""anthropic-python: messages, streams, tools, counting."""

import anthropic
from check import MODEL, URL, check, raises, run

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
TOOL = {"name": "get_weather", "description": "Weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def ask(text, **more):
    return client.messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": text}], **more)


def stream(text, **more):
    return client.messages.stream(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": text}], **more)


@check
def message_whole():
    message = ask("hi", system="Be brief.")
    assert message.content[0].text == "Hello" and message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (4, 8)


@check
def message_streamed():
    with stream("hi") as events:
        assert "".join(events.text_stream) == "Hello"
        assert events.get_final_message().usage.output_tokens == 5


@check
def thinking_streamed_before_text():
    with stream("think", thinking={"type": "enabled", "budget_tokens": 1024}) as events:
        message = events.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "Let me think." and message.content[0].signature


@check
def tools_in_a_loop():
    messages = [{"role": "user", "content": "weather in two cities"}]
    with client.messages.stream(model=MODEL, max_tokens=100, messages=messages, tools=[TOOL], tool_choice={"type": "any"}) as events:
        message = events.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [call.input for call in calls] == [{"city": "Rome"}, {"city": "Zürich"}] and message.stop_reason == "tool_use"
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    message = client.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[TOOL])
    assert message.content[0].text == "The tool says: sunny"


@check
def beta_messages():
    message = client.beta.messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "hi"}], betas=["x-2026-01-01"])
    assert message.content[0].text == "Hello"


@check
def pings_are_skipped():
    with stream("slow") as events:
        assert "".join(events.text_stream) == "slowHello"


@check
def tokens_are_counted():
    assert client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "hi"}]).input_tokens == 25


@check
def errors_before_the_headers_are_typed():
    raises(anthropic.NotFoundError, lambda: client.messages.create(model="none", max_tokens=9, messages=[{"role": "user", "content": "a"}]))
    assert "prompt is too long" in str(raises(anthropic.BadRequestError, lambda: ask("too long")))
    raises(anthropic.RateLimitError, lambda: ask("busy"))
    raises(anthropic.InternalServerError, lambda: ask("fail"))


@check
def an_error_after_the_headers_raises():
    def read():
        with stream("fail late") as events:
            events.until_done()

    assert "the disk is gone" in str(raises(anthropic.APIStatusError, read))


@check
def leaving_a_stream_is_harmless():
    with stream("forever") as events:
        next(iter(events))
    assert ask("hi").content[0].text == "Hello"


@check
def models_are_listed():
    assert [model.id for model in client.models.list()] == [MODEL, "plain"]


run("anthropic")
