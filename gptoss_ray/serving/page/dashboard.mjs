// Puts the dashboard together: reads the server's state every two seconds and shows it.

import { Api, ApiError } from "./api.mjs";
import { byId } from "./dom.mjs";
import { errorElement } from "./error-view.mjs";
import { timeOfDay } from "./format.mjs";
import { KeyDialog } from "./key-dialog.mjs";
import { ModelView } from "./model-view.mjs";
import { Poller } from "./poller.mjs";
import { remedy } from "./remedy.mjs";
import { switchTheme, theme } from "./theme.mjs";

const INTERVAL_MS = 2000;
const keys = new KeyDialog();
const api = new Api({ key: () => keys.key });
const poller = new Poller(read, INTERVAL_MS);
const views = new Map();
let before = null;
let stages = "";

async function read() {
  try {
    const state = await keys.withKey(() => api.dashboard());
    byId("notice").replaceChildren();
    show(state);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    byId("live").classList.remove("is-live");
    if (byId("notice").childElementCount) return; // said already
    const shown = { message: error.message, remedy: remedy(error) };
    byId("notice").replaceChildren(errorElement(shown, () => poller.now()));
  }
}

function show(state) {
  const seconds = before ? state.time - before.time : 0;
  for (const model of state.models) {
    if (!views.has(model.name)) {
      views.set(model.name, new ModelView(model.name));
      byId("models").append(views.get(model.name).element);
    }
    const earlier = before?.models.find(({ name }) => name === model.name);
    views.get(model.name).update(model, earlier, seconds);
  }
  before = state;
  byId("live").classList.toggle("is-live", !poller.isPaused);
  byId("updated").textContent = `${timeOfDay(state.time)}, version ${state.version}`;
  announceStages(state);
}

/** Say when a replica begins or ends healing, and nothing of the numbers. */
function announceStages(state) {
  const replicas = state.models.flatMap((model) => model.replicas.map(({ id, stage }) => `Replica ${id} is ${stage}.`));
  const now = replicas.join(" ");
  if (now !== stages && stages) byId("announcements").textContent = now;
  stages = now;
}

function showTheme() {
  byId("theme").setAttribute("aria-pressed", String(theme() === "dark"));
  for (const view of views.values()) for (const replica of view.replicas.values()) replica.map.redraw();
}

byId("pause").addEventListener("click", () => {
  poller.pause(!poller.isPaused);
  byId("pause").setAttribute("aria-pressed", String(poller.isPaused));
  byId("live").classList.toggle("is-live", !poller.isPaused);
});
byId("theme").addEventListener("click", () => {
  switchTheme();
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

showTheme();
poller.now();
