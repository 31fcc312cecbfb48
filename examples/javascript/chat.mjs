// The chat as a React component, without JSX so that it needs no build step. In a React app of yours:
//
//   import {Chat} from "./chat.mjs";
//   root.render(createElement(Chat, {apiUrl: "http://127.0.0.1:2024"}));

import {useStream} from "@langchain/langgraph-sdk/react";
import {createElement as h, useState} from "react";

/** Text of a message: a string, or blocks of which the text ones are read. */
const textOf = ({content}) =>
  typeof content === "string" ? content : content.filter((block) => block.type === "text").map((block) => block.text).join("");

export function Chat({apiUrl, apiKey}) {
  const [drafts, setDrafts] = useState({});
  const [text, setText] = useState("");
  const chat = useStream({
    apiUrl,
    apiKey,
    assistantId: "chat",
    messagesKey: "messages",
    onCustomEvent(event) {
      if (event.type === "turn_started") setDrafts({});
      if (event.type === "draft_token") {
        setDrafts((all) => ({...all, [event.community]: (all[event.community] ?? "") + event.text}));
      }
      if (event.type === "draft_done") setDrafts((all) => ({...all, [event.community]: event.text}));
    },
  });

  function send(event) {
    event.preventDefault();
    chat.submit({messages: [{type: "human", content: text}]}, {streamMode: ["messages-tuple", "values", "custom"]});
    setText("");
  }

  return h("main", null,
    h("ol", {"aria-label": "Conversation"}, chat.messages.map((message, index) =>
      h("li", {key: message.id ?? index, className: message.type}, textOf(message)))),
    h("dl", {"aria-label": "Drafts"}, Object.entries(drafts).flatMap(([community, draft]) => [
      h("dt", {key: `${community} name`}, community), h("dd", {key: community}, draft)])),
    chat.error ? h("p", {role: "alert"}, chat.error.message) : null,
    h("form", {onSubmit: send},
      h("input", {"aria-label": "Message", value: text, onChange: (event) => setText(event.target.value)}),
      h("button", {disabled: chat.isLoading}, "Send")));
}
