// A growing text in pieces that a screen reader can say.

const END = /[.!?:;](?=\s)|\n/g;

/** Return where the last whole sentence of a text ends; 0 where there is none yet. */
export function endOfSentences(text) {
  let end = 0;
  for (const match of text.matchAll(END)) end = match.index + 1;
  return end;
}
