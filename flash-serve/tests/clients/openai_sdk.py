"""openai-python: chat completions, completions, responses, embeddings, models."""

import openai
from check import MODEL, URL, check, raises, run
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": None}}},
    },
}


class Place(BaseModel):
    city: str


def chat(text, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


@check
def chat_whole():
    answer = chat("hi")
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


@check
def chat_streamed_with_usage():
    chunks = list(chat("hi", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello" and chunks[-1].usage.total_tokens == 17


@check
def chat_helper_accumulates_a_stream():
    messages = [{"role": "user", "content": "think, then weather in two cities"}]
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=[TOOL]) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    assert [call.function.arguments for call in message.tool_calls] == ['{"city":"Rome"}', '{"city":"Zürich"}']
    assert any(event.type == "tool_calls.function.arguments.done" for event in events)


@check
def tools_in_a_loop():
    messages = [{"role": "user", "content": "weather"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], tool_choice="required")
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    messages += [message, result]
    assert client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0].message.content == "The tool says: sunny"


@check
def reasoning_whole_and_streamed():
    assert chat("think").choices[0].message.reasoning_content == "Let me think."
    parts = [getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chat("think", stream=True)]
    assert "".join(parts) == "Let me think."


@check
def structured_output_is_parsed():
    answer = client.chat.completions.parse(model=MODEL, messages=[{"role": "user", "content": "hi"}], response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Rome")


@check
def several_choices_and_logprobs():
    answer = chat("hi", n=2, logprobs=True, top_logprobs=1, seed=1, stop=["x"], temperature=0.5)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].logprobs.content[0].logprob == -0.5


@check
def signs_of_life_are_skipped():
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chat("slow", stream=True))
    assert text == "slowHello"


@check
def errors_before_the_headers_are_typed():
    assert raises(openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=[{"role": "user", "content": "a"}])).code == "model_not_found"
    assert raises(openai.BadRequestError, lambda: chat("too long")).code == "context_length_exceeded"
    assert raises(openai.BadRequestError, lambda: chat("hi", extra_body={"mirostat": 2})).param == "mirostat"
    assert raises(openai.RateLimitError, lambda: chat("busy")).response.headers["retry-after"] == "1"
    raises(openai.InternalServerError, lambda: chat("fail", stream=True))


@check
def an_error_after_the_headers_raises():
    error = raises(openai.APIError, lambda: list(chat("fail late", stream=True)))
    assert "the disk is gone" in error.message


@check
def leaving_a_stream_is_harmless():
    stream = chat("forever", stream=True)
    next(iter(stream))
    stream.close()
    assert chat("hi").choices[0].message.content == "Hello"


@check
def completions_whole_and_streamed():
    assert client.completions.create(model=MODEL, prompt="hi").choices[0].text == "Hello"
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(model=MODEL, prompt="hi", stream=True)) == "Hello"


@check
def responses_whole():
    response = client.responses.create(model=MODEL, input="think", instructions="Be brief.", reasoning={"effort": "low"})
    assert response.output_text == "Hello" and response.status == "completed"
    assert response.output[0].content[0].text == "Let me think."


@check
def responses_streamed_in_order():
    tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}, {"type": "web_search"}]
    with client.responses.stream(model=MODEL, input="slow weather", tools=tools) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert response.output[-1].arguments == '{"city":"Rome"}'


@check
def responses_in_a_loop():
    first = client.responses.create(model=MODEL, input="weather", tools=[{"type": "function", "name": "get_weather", "parameters": {}, "strict": False}])
    call = first.output[-1]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    items = [{"role": "user", "content": "weather"}, *first.output, output]
    assert client.responses.create(model=MODEL, input=items).output_text == "The tool says: sunny"


@check
def responses_are_parsed():
    assert client.responses.parse(model=MODEL, input="hi", text_format=Place).output_parsed == Place(city="Rome")


@check
def embeddings_and_models():
    answer = client.embeddings.create(model=MODEL, input=["a", "b"])
    assert answer.data[1].embedding == [1.0, -0.5]
    assert [model.id for model in client.models.list()] == [MODEL, "plain"]
    assert client.models.retrieve(MODEL).id == MODEL


run("openai")
