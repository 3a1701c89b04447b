// SDKs in JavaScript: openai, anthropic, and the AI SDK, which opencode is built on.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const url = process.env.FLASH_URL;
const model = "demo/tiny";
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const compatible = createOpenAICompatible({ name: "flash", baseURL: `${url}/v1` });
const user = (content) => [{ role: "user", content }];

const checks = {
  "openai: chat streamed": async () => {
    let text = "";
    for await (const chunk of await openai.chat.completions.create({ model, messages: user("slow"), stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    assert.equal(text, "slowHello");
  },
  "openai: an error after the headers raises": async () => {
    const read = async () => {
      for await (const _ of await openai.chat.completions.create({ model, messages: user("fail late"), stream: true }));
    };
    await assert.rejects(read, /the disk is gone/);
  },
  "openai: responses streamed, with signs of life within items": async () => {
    const response = await openai.responses.stream({ model, input: "slow think" }).finalResponse();
    assert.equal(response.output_text, "slowHello");
  },
  "anthropic: message streamed": async () => {
    const request = { model, max_tokens: 9, messages: user("slow think weather") };
    const message = await anthropic.messages.stream(request).finalMessage();
    assert.deepEqual(message.content.map((block) => block.type), ["text", "thinking", "text", "tool_use"]);
    assert.deepEqual(message.content[3].input, { city: "Rome" });
  },
  "ai: reasoning, and parallel tools in a loop": async () => {
    const execute = async ({ city }) => `${city}: sunny`;
    const tools = { get_weather: tool({ inputSchema: z.object({ city: z.string() }), execute }) };
    const prompt = "slow think weather in two cities";
    const result = streamText({ model: compatible(model), prompt, tools, stopWhen: stepCountIs(3) });
    let text = "";
    for await (const part of result.textStream) text += part;
    assert.equal(text, "slowLooking.The tool says: Zürich: sunny");
    const steps = await result.steps;
    assert.equal(steps[0].reasoningText, "Let me think.");
    assert.equal(steps[0].toolCalls.length, 2);
  },
};

let failed = false;
for (const [claim, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok   node ${claim}`);
  } catch (error) {
    failed = true;
    console.log(`FAIL node ${claim}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
