"""langchain-openai, langchain-ollama and llm."""

import os
import subprocess
import sys
import tempfile

from check import MODEL, URL, check, run
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODELS = [
    ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0),
    ChatOllama(model=MODEL, base_url=URL),
]


class Place(BaseModel):
    """A place."""

    city: str


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return city


@check
def every_model_answers_and_streams():
    for model in MODELS:
        assert model.invoke("hi").content == "Hello", model
        assert "".join(part.content for part in model.stream("slow")) == "slowHello", model


@check
def every_model_calls_tools():
    for model in MODELS:
        calls = model.bind_tools([get_weather]).invoke("weather in two cities").tool_calls
        assert [call["args"] for call in calls] == [{"city": "Rome"}, {"city": "Zürich"}], model


@check
def every_model_has_structured_output():
    for model in MODELS:
        assert model.with_structured_output(Place, method="json_schema").invoke("hi") == Place(city="Rome"), model


@check
def llm_answers_on_the_command_line():
    with tempfile.TemporaryDirectory() as home:
        with open(f"{home}/extra-openai-models.yaml", "w") as models:
            models.write(f"- model_id: flash\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  api_key_name: flash\n")
        environment = {**os.environ, "LLM_USER_PATH": home}
        command = [sys.executable, "-m", "llm", "-m", "flash", "--key", "none", "hi"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "Hello", done


run("langchain and llm")
