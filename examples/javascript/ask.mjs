// Asks a country from JavaScript, and shows the drafts as they come.
//
//   palette studio &
//   npm install && node ask.mjs KEN "Which matters more to people?" Freedom Equality

import {Client} from "@langchain/langgraph-sdk";

const [country, query, ...options] = process.argv.slice(2);
const client = new Client({
  apiUrl: process.env.PALETTE_URL ?? "http://127.0.0.1:2024",
  apiKey: process.env.PALETTE_SERVER_KEY ?? null,
});
const thread = await client.threads.create();
const run = client.runs.stream(thread.thread_id, "palette", {
  input: {country, query, options},
  streamMode: ["custom", "values"],
});

let state;
for await (const {event, data} of run) {
  if (event === "custom" && data.type === "draft_done") console.log(`${data.community}: ${data.text}`);
  if (event === "custom" && data.type === "draft_failed") console.log(`${data.community} is missing: ${data.error}`);
  if (event === "error") throw new Error(data.message);
  if (event === "values") state = data;
}
console.log("answer:", state.answer);
for (const [option, share] of Object.entries(state.distribution ?? {})) {
  console.log(`${(100 * share).toFixed(1).padStart(5)} %  ${option}`);
}
