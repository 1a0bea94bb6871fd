"""The Responses API: items in, items out, events between; answers that are kept; work in the background."""
