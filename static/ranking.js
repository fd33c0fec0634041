// The ranking page. Cards are dragged, or placed by digit, button or arrow; the form's selects hold the truth
// that is submitted, so that the page works the same whichever way a card got its place.
(() => {
  "use strict";
  const FOLD_ABOVE = 340; // pixels: longer responses are folded
  const DRAFT_DELAY = 700; // milliseconds after the last change
  const IDLE_AFTER = 60_000; // without a key, a touch or a move, nobody is at work
  const ORDINALS = { 1: "1st", 2: "2nd", 3: "3rd" };
  const ordinal = (n) => ORDINALS[n] || `${n}th`;
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  let task = null; // what is on the page now

  function announce(text) {
    const place = $("#announcer");
    if (place) place.textContent = text;
  }

  class Task {
    constructor(root) {
      this.root = root;
      this.id = root.dataset.assignment;
      this.count = Number(root.dataset.count);
      this.form = $("#ranking", root);
      this.cards = $$(".card", root);
      this.history = [];
      this.sent = false;
      this.seconds = Number(this.form.elements.seconds.value) || 0;
      this.restoreBackup();
      this.prepareCards();
      this.listen();
      this.makeSortable();
      this.show();
      this.mark(this.firstUnplaced() || this.cards[0], { focus: document.activeElement === document.body });
    }

    select(card) { return $("select", card); }
    tier(card) { return Number(this.select(card).value) || 0; }
    firstUnplaced() { return this.cards.find((card) => !this.tier(card)); }
    complete() { return this.cards.every((card) => this.tier(card)); }

    // Places without gaps: what will be stored.
    ranks() {
      const used = [...new Set(this.cards.map((card) => this.tier(card)).filter(Boolean))].sort((a, b) => a - b);
      return new Map(this.cards.map((card) => [card, this.tier(card) ? used.indexOf(this.tier(card)) + 1 : 0]));
    }

    prepareCards() {
      for (const card of this.cards) {
        const text = $(".text", card);
        const button = $(".unfold", card);
        if (text.scrollHeight > FOLD_ABOVE) {
          text.classList.add("folded");
          button.hidden = false;
          button.setAttribute("aria-expanded", "false");
        }
        button.addEventListener("click", () => this.unfold(card));
        card.addEventListener("focus", () => this.mark(card, { focus: false }));
        for (const place of $$(".place-button", card)) {
          place.addEventListener("click", () => {
            const tier = Number(place.dataset.place);
            this.place(card, this.tier(card) === tier ? 0 : tier);
          });
        }
      }
    }

    unfold(card) {
      const folded = $(".text", card).classList.toggle("folded");
      const button = $(".unfold", card);
      button.textContent = folded ? "Show all" : "Fold";
      button.setAttribute("aria-expanded", String(!folded));
    }

    makeSortable() {
      if (!window.Sortable) return;
      for (const list of $$(".list", this.root)) {
        window.Sortable.create(list, {
          group: "cards",
          handle: ".card-head",
          filter: ".fallback",
          animation: window.matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 130,
          onStart: () => this.root.classList.add("dragging-somewhere"),
          onEnd: (event) => {
            this.root.classList.remove("dragging-somewhere");
            this.place(event.item, Number(event.to.dataset.tier), { moved: true });
            this.mark(event.item, { focus: true });
          },
        });
      }
    }

    place(card, tier, { moved = false, remember = true } = {}) {
      const before = this.tier(card);
      if (before === tier && !moved) return;
      if (remember && before !== tier) this.history.push([card, before]);
      this.select(card).value = tier ? String(tier) : "";
      this.show();
      this.changed();
      if (before !== tier) this.tell(card);
    }

    undo() {
      const last = this.history.pop();
      if (!last) return announce("Nothing to undo");
      this.place(last[0], last[1], { remember: false });
      this.mark(last[0], { focus: true });
    }

    tell(card) {
      const rank = this.ranks().get(card);
      const name = `Response ${card.dataset.letter}`;
      if (!rank) return announce(`${name} has no place now`);
      const equals = this.cards.filter((other) => other !== card && this.tier(other) === this.tier(card));
      const tied = equals.length ? `, tied with ${equals.map((other) => other.dataset.letter).join(" and ")}` : "";
      const left = this.cards.filter((other) => !this.tier(other)).length;
      announce(`${name} is now ${ordinal(rank)}${tied}. ${left ? `${left} to go` : "Every response has a place; Enter submits"}`);
    }

    // Put every card where its place says, and say so on it.
    show() {
      const ranks = this.ranks();
      const focused = document.activeElement;
      for (const card of this.cards) {
        const tier = this.tier(card);
        const list = $(`.list[data-tier="${tier}"]`, this.root);
        if (card.parentElement !== list) list.append(card);
        const rank = ranks.get(card);
        $(".place", card).textContent = rank ? ordinal(rank) : "";
        card.setAttribute("aria-label", `Response ${card.dataset.letter}, ${rank ? `place ${rank}` : "no place yet"}`);
        for (const button of $$(".place-button", card)) {
          button.setAttribute("aria-pressed", String(Number(button.dataset.place) === tier));
        }
      }
      if (focused && focused !== document.activeElement && this.root.contains(focused)) focused.focus({ preventScroll: true });
      for (const tier of $$(".tier", this.root)) tier.classList.toggle("filled", !!$(".card", tier));
      const order = $("#order", this.root);
      const placed = [...ranks].filter(([, rank]) => rank).sort(([a, x], [b, y]) => x - y || a.dataset.letter.localeCompare(b.dataset.letter));
      order.textContent = placed.length
        ? placed.map(([card, rank], at) => (at ? (rank === placed[at - 1][1] ? " = " : " > ") : "") + card.dataset.letter).join("")
        : "Nothing placed yet";
      $("#submit", this.root).setAttribute("aria-disabled", String(!this.complete()));
    }

    mark(card, { focus = true } = {}) {
      this.marked = card;
      for (const each of this.cards) {
        each.classList.toggle("marked", each === card);
        each.tabIndex = each === card ? 0 : -1;
        for (const button of $$(".place-button", each)) button.tabIndex = each === card ? 0 : -1;
      }
      if (focus) card.focus();
    }

    // Cards in the order in which they stand on the page.
    standing() { return $$(".card", this.root); }

    step(by) {
      const cards = this.standing();
      const at = cards.indexOf(this.marked);
      this.mark(cards[(at + by + cards.length) % cards.length]);
    }

    digit(n) {
      if (n > this.count) return announce(`There are only ${this.count} places`);
      const card = this.marked;
      this.place(card, n);
      const next = n ? this.firstUnplaced() : card;
      this.mark(next || card);
    }

    listen() {
      this.form.addEventListener("submit", (event) => {
        if (!this.complete()) {
          event.preventDefault();
          event.stopImmediatePropagation();
          announce("Every response needs a place before you submit");
          this.mark(this.firstUnplaced());
          return;
        }
        if (this.sent) { event.preventDefault(); event.stopImmediatePropagation(); return; }
        this.sent = true;
        this.form.elements.seconds.value = this.seconds.toFixed(1);
        clearTimeout(this.timer);
        $("#submit", this.root).disabled = true;
        this.say("Sending …");
      }, true);
      this.form.addEventListener("input", () => this.changed());
      for (const button of $$("[data-dialog]", this.root)) {
        button.addEventListener("click", () => $(`#${button.dataset.dialog}`).showModal());
      }
      const skip = $("#skip-dialog", this.root);
      $("[data-close]", skip).addEventListener("click", () => skip.close());
      $("#copy-best", this.root).addEventListener("click", () => {
        const best = [...this.ranks()].find(([, rank]) => rank === 1);
        if (!best) return announce("Give a response the first place before you start from it");
        const box = this.form.elements.rewrite;
        if (!box.value.trim()) box.value = $(".prose", best[0]).innerText.trim();
        box.focus();
        this.changed();
      });
    }

    // --- nothing typed is lost

    draft() {
      const fields = this.form.elements;
      const axes = {};
      for (const input of $$("input[name^='axis-']:checked", this.form)) axes[input.name.slice(5)] = Number(input.value);
      const ranks = {};
      for (const card of this.cards) if (this.tier(card)) ranks[card.dataset.candidate] = this.tier(card);
      return {
        ranks,
        axes,
        flags: $$("input[name='flags']:checked", this.form).map((input) => input.value),
        rationale: fields.rationale.value,
        rewrite: fields.rewrite.value,
        seconds: Math.round(this.seconds * 10) / 10,
      };
    }

    changed() {
      try { localStorage.setItem(`draft-${this.id}`, JSON.stringify(this.draft())); } catch { /* full or forbidden */ }
      clearTimeout(this.timer);
      this.say("");
      this.timer = setTimeout(() => this.saveDraft(), DRAFT_DELAY);
    }

    async saveDraft() {
      if (this.sent) return;
      try {
        const answer = await fetch(`/api/v1/assignments/${this.id}/draft`, {
          method: "PUT",
          headers: { "Content-Type": "application/json", "X-CSRF-Token": this.form.elements.csrf_token.value },
          body: JSON.stringify(this.draft()),
        });
        this.say(answer.ok ? "Draft saved" : "Draft kept in this browser");
      } catch {
        this.say("No connection: the draft is kept in this browser");
      }
    }

    restoreBackup() {
      let kept = null;
      try { kept = JSON.parse(localStorage.getItem(`draft-${this.id}`)); } catch { return; }
      if (!kept) return;
      for (const card of this.cards) {
        const tier = kept.ranks?.[card.dataset.candidate];
        if (tier) this.select(card).value = String(tier);
      }
      for (const [name, score] of Object.entries(kept.axes || {})) {
        const input = $(`input[name="axis-${CSS.escape(name)}"][value="${score}"]`, this.form);
        if (input) input.checked = true;
      }
      for (const input of $$("input[name='flags']", this.form)) input.checked = (kept.flags || []).includes(input.value);
      for (const name of ["rationale", "rewrite"]) if (kept[name]) this.form.elements[name].value = kept[name];
      this.seconds = Math.max(this.seconds, kept.seconds || 0);
    }

    forgetBackup() { try { localStorage.removeItem(`draft-${this.id}`); } catch { /* forbidden */ } }

    failed(text) {
      this.sent = false;
      $("#submit", this.root).disabled = false;
      this.say(text);
    }

    say(text) { const place = $("#saved", this.root); if (place) place.textContent = text; }
  }

  // --- time at work: not while the page is hidden, not while nobody moves

  let lastSign = Date.now();
  for (const sign of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart", "scroll"]) {
    document.addEventListener(sign, () => { lastSign = Date.now(); }, { passive: true, capture: true });
  }
  setInterval(() => {
    if (task && !task.sent && !document.hidden && Date.now() - lastSign < IDLE_AFTER) task.seconds += 1;
  }, 1000);

  // --- keys

  document.addEventListener("keydown", (event) => {
    if (!task || event.altKey || event.metaKey) return;
    const typing = event.target.matches("input:not([type=radio], [type=checkbox]), textarea, select");
    if (event.key === "Enter" && (event.ctrlKey || !typing)) {
      const onControl = event.target.closest("button, a, summary, input, label");
      if (document.querySelector("dialog[open]") || (onControl && !event.ctrlKey)) return;
      event.preventDefault();
      task.form.requestSubmit();
      return;
    }
    if (typing || event.ctrlKey || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onRadio = event.target.matches("input[type=radio]");
    const actions = {
      ArrowRight: () => task.step(1), ArrowLeft: () => task.step(-1), j: () => task.step(1), k: () => task.step(-1),
      ArrowDown: () => (event.shiftKey ? move(1) : task.step(1)), ArrowUp: () => (event.shiftKey ? move(-1) : task.step(-1)),
      Backspace: () => task.digit(0), u: () => task.undo(), x: () => task.unfold(task.marked),
      s: () => $("#skip-dialog").showModal(), g: () => $("#guidelines-dialog").showModal(), "?": () => $("#keys-dialog").showModal(),
    };
    if (/^[0-9]$/.test(key) && !onRadio) {
      event.preventDefault();
      task.digit(Number(key));
    } else if (actions[key] && !(onRadio && key.startsWith("Arrow"))) {
      event.preventDefault();
      actions[key]();
    }
  });

  function move(by) {
    const tier = Math.min(task.count, Math.max(1, task.tier(task.marked) + by));
    task.place(task.marked, tier);
    task.mark(task.marked);
  }

  // --- the page's life

  function start() {
    const root = $("#workspace");
    if (!root) return;
    task = root.dataset.assignment ? new Task(root) : null;
  }

  document.documentElement.classList.replace("no-js", "js");
  document.documentElement.classList.add("js");
  document.addEventListener("DOMContentLoaded", start);

  document.addEventListener("htmx:after:swap", () => {
    const root = $("#workspace");
    if (!root || (task && task.root === root)) return;
    if (task && task.sent) task.forgetBackup();
    $("#page-error")?.replaceChildren();
    start();
    window.scrollTo({ top: 0 });
    if (task) task.mark(task.marked);
    const recap = $(".recap", root);
    announce(`${recap ? `Stored: ${$(".order", recap).textContent}. ` : ""}${task ? `Next task, ${task.count} responses.` : "Nothing is left."}`);
  });
  document.addEventListener("htmx:response:error", () => task?.failed("Not stored; see above"));
  document.addEventListener("htmx:error", () => task?.failed("No connection: nothing is lost, submit again when it is back"));
})();
