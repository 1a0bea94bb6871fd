// Keeps the end of the conversation in view while it grows, unless the person has scrolled away from it.

const NEAR_PX = 48;

export class Follower {
  /** `button` goes back to the end; it shows while the end is out of sight. */
  constructor(button) {
    this.button = button;
    this.isFollowing = true;
    this.lastTop = 0;
    addEventListener("scroll", () => this.note(), { passive: true });
    addEventListener("resize", () => this.update(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
  }

  /** Call after the page has grown or shrunk. */
  update() {
    if (this.isFollowing) this.toEnd();
    else this.note();
  }

  toEnd() {
    const root = document.documentElement;
    root.scrollTop = root.scrollHeight;
    this.note();
  }

  /** Growth alone never moves the page up: if it went up, a person moved it. */
  note() {
    const { scrollTop, clientHeight, scrollHeight } = document.documentElement;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (isAtEnd) this.isFollowing = true;
    else if (scrollTop < this.lastTop) this.isFollowing = false;
    this.lastTop = scrollTop;
    this.button.hidden = isAtEnd;
  }
}
