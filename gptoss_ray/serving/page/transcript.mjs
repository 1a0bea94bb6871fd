// The conversation on the screen: one view for each entry, kept for as long as the entry is.

import { AnswerView } from "./answer-view.mjs";
import { QuestionView } from "./question-view.mjs";

export class Transcript {
  /** `handlers`: onEdit, onRegenerate, onResult, opensReasoning. */
  constructor(list, handlers) {
    this.list = list;
    this.handlers = handlers;
    this.views = new Map();
  }

  /** Show these entries; `liveId` is that of the answer that is being written. */
  update(entries, liveId) {
    const ids = new Set(entries.map((entry) => entry.id));
    for (const [id, view] of this.views) {
      if (ids.has(id)) continue;
      view.root.remove();
      this.views.delete(id);
    }
    for (const entry of entries) this.view(entry).update(entry.id === liveId);
  }

  /** Show one entry that has changed. */
  updateEntry(entry, isLive) {
    this.view(entry).update(isLive);
  }

  view(entry) {
    let view = this.views.get(entry.id);
    if (!view) {
      view = entry.kind === "question" ? new QuestionView(entry, this.handlers) : new AnswerView(entry, this.handlers);
      this.views.set(entry.id, view);
      this.list.append(view.root);
    }
    return view;
  }
}
