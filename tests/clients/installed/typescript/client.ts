// Asks over gRPC with stubs that were generated from protos/ alone, and prints what comes as JSON.
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ChatService, Role } from "./gen/gptoss/v1/chat_pb.js";
import type { StreamChatResponse } from "./gen/gptoss/v1/chat_pb.js";
import { FinishReason } from "./gen/gptoss/v1/common_pb.js";
import { TokenizeService } from "./gen/gptoss/v1/tokenize_pb.js";

const transport = createGrpcTransport({ baseUrl: `http://${process.argv[2]}` });
const chats = createClient(ChatService, transport);
const question = { model: process.argv[3], messages: [{ role: Role.USER, content: "17 + 25?" }] };

const whole = await chats.chat(question);
const pieces: StreamChatResponse[] = [];
for await (const piece of chats.streamChat({ chat: question, resumable: true })) {
  pieces.push(piece);
}
const tokenized = await createClient(TokenizeService, transport).tokenize({
  input: { case: "text", value: "<|start|>user" },
  returnTokens: true,
});
console.log(
  JSON.stringify({
    content: whole.choices[0].content,
    stopped: whole.choices[0].finishReason === FinishReason.STOP,
    streamed: pieces.map((piece) => piece.choice?.content ?? "").join(""),
    reasoning: pieces.map((piece) => piece.choice?.reasoning ?? "").join(""),
    seed: String(pieces[0].resumption?.seed),
    tokenIds: pieces.flatMap((piece) => piece.choice?.tokenIds ?? []),
    completionTokens: pieces[pieces.length - 1].usage?.completionTokens,
    tokens: tokenized.tokens.map((token) => new TextDecoder().decode(token)),
  }),
);
