"""litellm: the same engine through its OpenAI, Anthropic and Ollama providers."""

import litellm
from check import MODEL, URL, check, raises, run

litellm.suppress_debug_info = True
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
PROVIDERS = [
    {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"},
    {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": "none"},
    {"model": f"ollama_chat/{MODEL}", "api_base": URL},
]


def ask(provider, text, **more):
    return litellm.completion(messages=[{"role": "user", "content": text}], max_tokens=50, num_retries=0, **provider, **more)


@check
def every_provider_answers():
    for provider in PROVIDERS:
        assert ask(provider, "hi").choices[0].message.content == "Hello", provider


@check
def every_provider_streams():
    for provider in PROVIDERS:
        parts = [chunk.choices[0].delta.content or "" for chunk in ask(provider, "slow", stream=True)]
        assert "".join(parts) == "slowHello", (provider, parts)


@check
def every_provider_calls_tools():
    for provider in PROVIDERS:
        calls = ask(provider, "weather", tools=[TOOL]).choices[0].message.tool_calls
        assert "Rome" in calls[0].function.arguments, provider
        chunks = list(ask(provider, "weather", tools=[TOOL], stream=True))
        calls = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
        assert "Rome" in calls[0].function.arguments, provider


@check
def openai_and_anthropic_have_reasoning():
    for provider in PROVIDERS[:2]:
        assert ask(provider, "think").choices[0].message.reasoning_content == "Let me think.", provider


@check
def errors_are_typed():
    raises(litellm.ContextWindowExceededError, lambda: ask(PROVIDERS[0], "too long"))
    raises(litellm.BadRequestError, lambda: ask(PROVIDERS[1], "too long"))
    raises(litellm.RateLimitError, lambda: ask(PROVIDERS[0], "busy"))


run("litellm")
