// Puts the page together: what each part does when another one changes.

import { AnswerReader, announce } from "./announcer.mjs";
import { awaitsResult } from "./answer.mjs";
import { Api } from "./api.mjs";
import { Chat, markStopped } from "./chat.mjs";
import { Composer } from "./composer.mjs";
import { Conversation } from "./conversation.mjs";
import { byId } from "./dom.mjs";
import { Follower } from "./follow.mjs";
import { KeyDialog } from "./key-dialog.mjs";
import { ModelSelect } from "./model-select.mjs";
import { DEFAULTS } from "./settings.mjs";
import { SettingsPanel } from "./settings-panel.mjs";
import { load, save } from "./store.mjs";
import { switchTheme, theme } from "./theme.mjs";
import { Transcript } from "./transcript.mjs";
import { Welcome } from "./welcome.mjs";

const settings = { ...DEFAULTS, ...load("settings", {}) };
const keys = new KeyDialog();
const api = new Api({ key: () => keys.key });
const withKey = (action) => keys.withKey(action);
const follower = new Follower(byId("to-end"));
const conversation = stored();
const chat = new Chat({ api, settings, conversation, withKey, onChange, onStart, onGrowth, onEnd });
const transcript = new Transcript(byId("transcript"), {
  onEdit: (question, text) => thenFocus(() => chat.edit(question, text)),
  onRegenerate: (answer) => thenFocus(() => chat.regenerate(answer)),
  onResult: (call, text) => thenFocus(() => chat.giveResult(call, text)),
  opensReasoning: () => settings.opensReasoning,
});
const panel = new SettingsPanel(settings, { onChange: onSetting, keys });
const composer = new Composer(settings, {
  onSend: ask,
  onStop: () => chat.stop(),
  onFunctions: () => panel.open("functions"),
  onChange: onSetting,
});
const welcome = new Welcome(({ text, definition }) => {
  if (definition) panel.addFunction(definition);
  thenFocus(() => ask(text));
});
const models = new ModelSelect(settings, { list: () => withKey(() => api.models()), onChange: onSetting });
let reader = new AnswerReader();
let isDrawing = false;

/** Return the conversation of before a reload; an answer that the reload cut off is marked so. */
function stored() {
  const restored = new Conversation(load("conversation", []));
  const { last } = restored;
  if (last?.kind === "answer" && !last.finishReason && !last.error) markStopped(last);
  return restored;
}

function ask(text) {
  follower.isFollowing = true;
  return chat.ask(text);
}

/** What had the focus may be gone after an action; the message box takes it. */
function thenFocus(action) {
  action();
  composer.focus();
}

function show() {
  const { entries } = chat.conversation;
  welcome.update(settings.model, entries.length === 0);
  transcript.update(entries, chat.live?.answer.id);
  composer.update(chat.live !== null);
  byId("new-chat").disabled = entries.length === 0;
  if (entries.length) follower.update();
}

function onSetting() {
  show();
  save("settings", settings);
}

function onChange() {
  show();
  save("conversation", chat.conversation.entries);
}

function onStart() {
  reader = new AnswerReader();
  announce("Waiting for the answer.");
}

/** Draw at most once a frame, however fast tokens come. */
function onGrowth(answer) {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (chat.live?.answer !== answer) return;
    transcript.updateEntry(answer, true);
    follower.update();
    reader.update(answer.content, performance.now());
  });
}

function onEnd(answer) {
  reader.finish(answer.content);
  if (answer.isStopped) announce("Stopped.");
  else if (answer.error === null && !awaitsResult(answer)) announce("The answer is complete.");
  if (!awaitsResult(answer)) return;
  announce(`The model calls ${answer.calls[0].name}. Type its result.`);
  if (composer.isIdle) transcript.view(answer).focusCall();
}

function showTheme() {
  byId("theme").setAttribute("aria-pressed", String(theme() === "dark"));
}

byId("new-chat").addEventListener("click", () => thenFocus(() => chat.clear()));
byId("theme").addEventListener("click", () => {
  switchTheme();
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) chat.stop();
});

showTheme();
show();
composer.focus();
models.load();
