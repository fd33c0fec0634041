// The ranking page, in one file so that the first task comes in few requests. The form's own fields hold what
// is submitted (selects for places, radios for a preference between two); cards, chips and keys only change
// those. A submitted form goes through an outbox that outlives the page, and the task after it is already here.
(() => {
  "use strict";
  const FOLD_ABOVE = 420; // pixels: longer responses are folded
  const DRAFT_DELAY = 700; // milliseconds after the last change
  const RETRY_EVERY = 8000; // milliseconds between attempts to send what waits
  const IDLE_AFTER = 60_000; // milliseconds without a key, a touch or a move: nobody is at work
  const PAUSE_AFTER = 45 * 60; // seconds of work before a break is suggested
  const RESTED_AFTER = 5 * 60_000; // milliseconds away that count as one
  const DRAG_AFTER = 5; // pixels before a press becomes a drag

  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const words = JSON.parse($("#words").textContent);
  const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  let task = null; // what is on the page now
  let next = null; // the task after it, as an element that is not on the page yet

  function announce(text) { $("#announcer").textContent = text; }

  const store = {
    get(key) { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, JSON.stringify(value)); return true; } catch { return false; } },
    drop(key) { try { localStorage.removeItem(key); } catch { /* forbidden */ } },
  };

  // --- one task

  class Task {
    constructor(root) {
      this.root = root;
      this.id = root.dataset.assignment;
      this.changing = root.dataset.changing;
      this.count = Number(root.dataset.count);
      this.pair = this.count === 2;
      this.form = $("#ranking", root);
      this.cards = $$(".card", root);
      this.history = [];
      this.sent = false;
      this.touched = false;
      this.seconds = Number(this.form.elements.seconds.value) || 0;
      this.restoreBackup();
      this.prepareCards();
      this.listen();
      this.show();
      this.mark(this.firstUnplaced() || this.cards[0], { focus: false });
    }

    select(card) { return $("select", card); }
    tier(card) { return Number(this.select(card)?.value) || 0; }
    preference() { const chosen = $("input[name=preference]:checked", this.form); return chosen ? Number(chosen.value) : null; }
    firstUnplaced() { return this.pair ? null : this.cards.find((card) => !this.tier(card)); }
    complete() { return this.pair ? this.preference() !== null : this.cards.every((card) => this.tier(card)); }

    // Places without gaps, by card: what will be stored. 0 is no place.
    ranks() {
      if (this.pair) {
        const preference = this.preference();
        if (preference === null) return new Map(this.cards.map((card) => [card, 0]));
        return new Map([[this.cards[0], preference < 0 ? 2 : 1], [this.cards[1], preference > 0 ? 2 : 1]]);
      }
      const used = [...new Set(this.cards.map((card) => this.tier(card)).filter(Boolean))].sort((a, b) => a - b);
      return new Map(this.cards.map((card) => [card, this.tier(card) ? used.indexOf(this.tier(card)) + 1 : 0]));
    }

    order() {
      const placed = [...this.ranks()].filter(([, rank]) => rank).sort(([a, x], [b, y]) => x - y || a.dataset.letter.localeCompare(b.dataset.letter));
      return placed.map(([card, rank], at) => (at ? (rank === placed[at - 1][1] ? " = " : " > ") : "") + card.dataset.letter).join("");
    }

    prepareCards() {
      for (const card of this.cards) {
        const button = $(".unfold", card);
        if ($(".prose", card).offsetHeight > FOLD_ABOVE) {
          $(".text", card).classList.add("folded");
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
        if (!this.pair) makeDraggable($(".card-head", card), card, this);
      }
    }

    unfold(card) {
      const button = $(".unfold", card);
      if (button.hidden) return;
      const folded = $(".text", card).classList.toggle("folded");
      button.textContent = folded ? words.show_all : words.fold;
      button.setAttribute("aria-expanded", String(!folded));
      if (folded) card.scrollIntoView({ block: "nearest" });
    }

    place(card, tier, { remember = true } = {}) {
      const before = this.tier(card);
      if (before === tier || this.sent) return;
      if (remember) this.history.push(() => { this.place(card, before, { remember: false }); this.mark(card); });
      this.select(card).value = tier ? String(tier) : "";
      this.show();
      this.changed();
      this.tell(card);
    }

    prefer(value, { remember = true } = {}) {
      const before = this.preference();
      if (before === value || this.sent) return;
      if (remember) this.history.push(() => this.prefer(before, { remember: false }));
      for (const input of $$("input[name=preference]", this.form)) input.checked = Number(input.value) === value && value !== null;
      this.show();
      this.changed();
      announce($("#order", this.root).textContent);
    }

    undo() {
      const last = this.history.pop();
      if (last) last();
      else announce(words.nothing_to_undo);
    }

    tell(card) {
      const rank = this.ranks().get(card);
      const letter = card.dataset.letter;
      if (!rank) return announce(say("unplaced", { letter }));
      const equals = this.cards.filter((other) => other !== card && this.tier(other) === this.tier(card));
      const others = equals.map((other) => other.dataset.letter).join(", ");
      const left = this.cards.filter((other) => !this.tier(other)).length;
      const rest = left ? say("to_go", { count: left }) : words.all_placed;
      announce(`${say(others ? "tied" : "place", { letter, place: rank, others })}. ${rest}`);
    }

    // Say everywhere what the form holds. Cards stay where they are: only badges, buttons and chips change.
    show() {
      const ranks = this.ranks();
      for (const card of this.cards) {
        const rank = ranks.get(card);
        const letter = card.dataset.letter;
        $(".place", card).textContent = rank && !this.pair ? String(rank) : "";
        card.classList.toggle("placed", !!rank);
        card.classList.toggle("best", rank === 1);
        card.setAttribute("aria-label", rank ? say("response", { letter, place: rank }) : say("response_unplaced", { letter }));
        for (const button of $$(".place-button", card)) button.setAttribute("aria-pressed", String(Number(button.dataset.place) === this.tier(card)));
      }
      for (const slot of $$(".slot", this.root)) {
        const cards = this.cards.filter((card) => this.tier(card) === Number(slot.dataset.tier));
        slot.classList.toggle("filled", cards.length > 0);
        $(".chips", slot).replaceChildren(...cards.map((card) => this.chip(card)));
      }
      const chosen = $("input[name=preference]:checked + span", this.form);
      $("#order", this.root).textContent = (this.pair ? chosen?.textContent : this.order()) || words.nothing_placed;
      $("#submit", this.root).setAttribute("aria-disabled", String(!this.complete()));
    }

    chip(card) {
      const chip = document.createElement("span");
      chip.className = "chip";
      chip.textContent = card.dataset.letter;
      makeDraggable(chip, card, this);
      return chip;
    }

    mark(card, { focus = true } = {}) {
      this.marked = card;
      for (const each of this.cards) {
        each.classList.toggle("marked", each === card);
        each.tabIndex = each === card ? 0 : -1;
        for (const button of $$(".place-button, .unfold", each)) button.tabIndex = each === card ? 0 : -1;
      }
      if (!focus) return;
      card.focus({ preventScroll: true });
      if (this.touched) card.scrollIntoView({ block: "nearest" });
    }

    step(by) {
      this.touched = true;
      const at = this.cards.indexOf(this.marked);
      this.mark(this.cards[(at + by + this.cards.length) % this.cards.length]);
    }

    digit(n) {
      if (this.pair) {
        const steps = $$("input[name=preference]", this.form);
        if (n > steps.length) return announce(say("only_places", { count: steps.length }));
        return this.prefer(n ? Number(steps[n - 1].value) : null);
      }
      if (n > this.count) return announce(say("only_places", { count: this.count }));
      const card = this.marked;
      this.place(card, n);
      this.mark((n && this.firstUnplaced()) || card);
    }

    move(by) {
      if (this.pair) {
        const steps = $$("input[name=preference]", this.form);
        const at = steps.findIndex((step) => step.checked);
        const to = at < 0 ? (by < 0 ? 2 : 4) : Math.min(steps.length - 1, Math.max(0, at + by));
        return this.prefer(Number(steps[to].value));
      }
      this.place(this.marked, Math.min(this.count, Math.max(1, this.tier(this.marked) + by)));
      this.mark(this.marked);
    }

    toggleNone() {
      const box = $("#none-is-good", this.root);
      box.checked = !box.checked;
      box.closest("details").open ||= box.checked;
      this.changed();
      announce(`${box.parentElement.firstChild.nextSibling.textContent.trim()}: ${box.checked ? "✓" : "–"}`);
    }

    best() { return [...this.ranks()].find(([, rank]) => rank === 1)?.[0]; }

    listen() {
      this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
      this.form.addEventListener("input", (event) => {
        if (event.target.name === "preference") this.show();
        if (event.target.name === "rewrite") this.compareRewrite();
        this.changed();
      });
      for (const button of $$("[data-dialog]", this.root)) button.addEventListener("click", () => open(button.dataset.dialog));
      for (const select of $$("#difference-dialog select", this.root)) select.addEventListener("change", () => this.compare());
      const skip = $("#skip-dialog", this.root);
      if (skip) {
        $("[data-close]", skip).addEventListener("click", () => skip.close());
        $("form", skip).addEventListener("submit", (event) => { event.preventDefault(); this.skip(event.target); });
      }
      $("#copy-best", this.root).addEventListener("click", () => {
        const best = this.best();
        if (!best) return announce(words.best_first);
        const box = this.form.elements.rewrite;
        if (!box.value.trim()) box.value = $(".prose", best).innerText.trim();
        box.focus();
        this.compareRewrite();
        this.changed();
      });
      if (this.form.elements.rewrite.value) this.compareRewrite();
    }

    async compare() {
      const [one, other] = $$("#difference-dialog select", this.root).map((select) => select.value);
      const answer = await fetch(`/rate/assignments/${this.id}/difference?${new URLSearchParams({ one, other })}`).catch(() => null);
      if (answer?.ok) $("#difference", this.root).innerHTML = await answer.text();
    }

    compareRewrite() {
      clearTimeout(this.rewriteTimer);
      this.rewriteTimer = setTimeout(async () => {
        const best = this.best();
        const text = this.form.elements.rewrite.value;
        const place = $("#rewrite-difference", this.root);
        if (!best || !text.trim()) return place.replaceChildren();
        const body = new URLSearchParams({ one: best.dataset.candidate, text, csrf_token: this.form.elements.csrf_token.value });
        const answer = await fetch(`/rate/assignments/${this.id}/difference`, { method: "POST", body }).catch(() => null);
        if (answer?.ok) place.innerHTML = await answer.text();
      }, DRAFT_DELAY);
    }

    // --- nothing typed is lost

    draft() {
      const fields = this.form.elements;
      const axes = {};
      for (const input of $$("input[name^='axis-']:checked", this.form)) axes[input.name.slice(5)] = Number(input.value);
      for (const input of $$("input[name^='each-']:checked", this.form)) {
        const [axis, candidate] = input.name.slice(5).split(":");
        (axes[axis] ||= {})[candidate] = Number(input.value);
      }
      const ranks = {};
      for (const card of this.cards) if (this.tier(card)) ranks[card.dataset.candidate] = this.tier(card);
      return {
        ranks,
        preference: this.pair ? this.preference() : null,
        axes,
        flags: $$("input[name='flags']:checked", this.form).map((input) => input.value),
        rationale: fields.rationale.value,
        rewrite: fields.rewrite.value,
        seconds: Math.round(this.seconds * 10) / 10,
      };
    }

    changed() {
      if (this.changing) return; // what is stored stays so until the change is
      store.set(`draft-${this.id}`, this.draft());
      clearTimeout(this.timer);
      this.note("");
      this.timer = setTimeout(() => this.saveDraft(), DRAFT_DELAY);
    }

    async saveDraft() {
      if (this.sent) return;
      const answer = await fetch(`/api/v1/assignments/${this.id}/draft`, {
        method: "PUT",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": this.form.elements.csrf_token.value },
        body: JSON.stringify(this.draft()),
      }).catch(() => null);
      if (!this.sent) this.note(answer?.ok ? words.saved : words.kept_here);
    }

    restoreBackup() {
      const kept = this.changing ? null : store.get(`draft-${this.id}`);
      if (!kept) return;
      for (const card of this.cards) {
        const tier = kept.ranks?.[card.dataset.candidate];
        if (tier && !this.pair) this.select(card).value = String(tier);
      }
      const check = (name, value) => { const input = $(`input[name="${CSS.escape(name)}"][value="${value}"]`, this.form); if (input) input.checked = true; };
      if (kept.preference !== null && kept.preference !== undefined) check("preference", kept.preference);
      for (const [name, score] of Object.entries(kept.axes || {})) {
        if (typeof score === "number") check(`axis-${name}`, score);
        else for (const [candidate, value] of Object.entries(score)) check(`each-${name}:${candidate}`, value);
      }
      for (const input of $$("input[name='flags']", this.form)) input.checked = (kept.flags || []).includes(input.value);
      for (const name of ["rationale", "rewrite"]) if (kept[name]) this.form.elements[name].value = kept[name];
      this.seconds = Math.max(this.seconds, kept.seconds || 0);
    }

    note(text) { $("#saved", this.root).textContent = text; }

    submit() {
      if (this.sent) return;
      if (!this.complete()) {
        announce(this.pair ? words.no_preference : words.incomplete);
        this.note(this.pair ? words.no_preference : words.incomplete);
        if (!this.pair) this.mark(this.firstUnplaced());
        return;
      }
      this.sent = true;
      clearTimeout(this.timer);
      this.form.elements.seconds.value = this.seconds.toFixed(1);
      $("#submit", this.root).disabled = true;
      this.note(words.sending);
      session.count(this);
      outbox.send({
        id: this.changing || this.id,
        address: this.form.getAttribute("action"),
        body: new URLSearchParams(new FormData(this.form)).toString(),
        order: this.pair ? $("#order", this.root).textContent : this.order(),
        project: this.root.dataset.project,
      }, this);
    }

    // The server said no: nothing is lost, the rater decides.
    refused(reason) {
      this.sent = false;
      $("#submit", this.root).disabled = false;
      this.note(say("refused", { reason }));
      announce(say("refused", { reason }));
    }

    async skip(form) {
      const answer = await fetch(form.getAttribute("action"), { method: "POST", headers: { Accept: "application/json" }, body: new URLSearchParams(new FormData(form)) }).catch(() => null);
      $("#skip-dialog", this.root).close();
      if (answer?.ok) { this.sent = true; store.drop(`draft-${this.id}`); return goOn(this); }
      this.note(answer ? say("refused", { reason: (await problem(answer)).detail }) : words.kept_here);
    }
  }

  async function problem(answer) {
    const found = await answer.json().catch(() => ({}));
    return { ...found, detail: found.detail || found.title || String(answer.status) };
  }

  // --- what is submitted waits here until the server has it, through reloads and lost lines

  const outbox = {
    underway: new Set(),
    waiting() { return store.get("outbox") || []; },
    keep(entries) { return store.set("outbox", entries); },

    // The next task need not wait for the answer: what is kept here cannot be lost. It says that the
    // ranking is stored when the server has said so.
    async send(entry, from) {
      const kept = this.keep([...this.waiting().filter((each) => each.id !== entry.id), entry]);
      const ahead = kept && next && !from.changing;
      if (ahead) {
        tellSending(entry);
        const sending = this.deliver(entry);
        present(next);
        await sending;
      } else if (await this.deliver(entry, () => from) !== "refused") goOn(from);
    },

    // "stored", "refused" (the server's answer is final) or "waiting".
    async deliver(entry, asker = () => null) {
      if (this.underway.has(entry.id)) return "waiting";
      this.underway.add(entry.id);
      const outcome = await this.attempt(entry, asker);
      this.underway.delete(entry.id);
      return outcome;
    },

    async attempt(entry, asker) {
      const token = $("input[name=csrf_token]")?.value;
      const answer = await fetch(entry.address, {
        method: "POST",
        headers: { Accept: "application/json", "Content-Type": "application/x-www-form-urlencoded", ...(token && { "X-CSRF-Token": token }) },
        body: entry.body,
      }).catch(() => null);
      if (answer?.ok && !answer.redirected) {
        this.forget(entry);
        store.drop(`draft-${entry.id}`);
        tellStored(await answer.json());
        if (!next) fetchAhead();
        return "stored";
      }
      const page = asker();
      // Signed out, in one of its three shapes: what waits is sent after the next sign-in.
      const signedOut = answer && (answer.redirected || [401, 403].includes(answer.status));
      if (!answer || signedOut || answer.status >= 500 || answer.status === 429) {
        this.tell(signedOut);
        return "waiting";
      }
      const { detail } = await problem(answer);
      this.forget(entry);
      if (page) page.refused(detail);
      else tellRefused(entry, detail);
      return "refused";
    },

    forget(entry) {
      this.keep(this.waiting().filter((each) => each.id !== entry.id));
      if (!this.waiting().length) $("#told .waiting")?.remove();
    },

    tell(signedOut) {
      const text = signedOut ? words.signed_out : say("waiting_line", { count: this.waiting().length });
      const place = $("#told .waiting") || Object.assign(document.createElement("p"), { className: "notice warn waiting" });
      place.textContent = text;
      if (!place.isConnected) $("#told").append(place);
    },

    async retry() {
      if (this.busy) return;
      this.busy = true;
      for (const entry of this.waiting()) {
        // The page may show this very task again: it was loaded anew before the server had the ranking.
        const shown = () => (task?.id === entry.id ? task : null);
        const outcome = await this.deliver(entry, shown);
        if (outcome === "waiting") break;
        if (outcome === "stored" && shown()) { task.sent = true; goOn(task); }
      }
      this.busy = false;
    },
  };

  function tellStored(stored) {
    const place = $("#told");
    const recap = document.createElement("p");
    recap.className = "recap";
    const badge = Object.assign(document.createElement("span"), { className: "badge good", textContent: words.stored });
    const order = Object.assign(document.createElement("span"), { className: "order", textContent: stored.order });
    const link = Object.assign(document.createElement("a"), { href: `/rate/history/${stored.id}${stored.changeable ? "/change" : ""}`, textContent: stored.changeable ? words.change : words.look });
    if (stored.changeable) link.id = "back";
    recap.append(badge, " ", order, " ", link);
    $(".recap", place)?.remove();
    $(".feedback", place)?.remove();
    place.prepend(recap);
    if (stored.feedback) {
      const told = Object.assign(document.createElement("div"), { className: "feedback", innerHTML: stored.feedback });
      recap.replaceWith(told);
    }
    const today = $("#today");
    today.dataset.today = Number(today.dataset.today) + 1;
    today.textContent = today.textContent.replace(/[\d\s\u202f]*\d/, today.dataset.today);
    session.show();
  }

  function tellSending(entry) {
    const recap = Object.assign(document.createElement("p"), { className: "recap muted" });
    const order = Object.assign(document.createElement("span"), { className: "order", textContent: entry.order });
    recap.append(words.sending, " ", order);
    $("#told .recap")?.remove();
    $("#told").prepend(recap);
  }

  function tellRefused(entry, reason) {
    const place = Object.assign(document.createElement("p"), { className: "notice bad" });
    const link = Object.assign(document.createElement("a"), { href: entry.project, textContent: words.back_to_it });
    place.append(`${entry.order}: ${say("refused", { reason })} `, link);
    $("#told .recap")?.remove();
    $("#told").append(place);
    announce(place.textContent);
  }

  // --- from one task to the next

  async function fetchAhead() {
    next = null;
    // Until the server has the ranking before it, the task on the page is still the one held ahead.
    if (!task || task.changing || outbox.waiting().length) return;
    const present = task;
    const body = new URLSearchParams({ current: present.id, csrf_token: present.form.elements.csrf_token.value });
    const answer = await fetch(`${present.root.dataset.project}/ahead`, { method: "POST", body }).catch(() => null);
    if (!answer || answer.status !== 200 || task !== present) return;
    next = parse(await answer.text());
  }

  function parse(html) { return new DOMParser().parseFromString(html, "text/html").querySelector("#workspace"); }

  async function goOn(from) {
    if (from !== task) return;
    if (from.changing) return location.assign(from.root.dataset.project);
    if (next) return present(next);
    const answer = await fetch(`${from.root.dataset.project}/next`).catch(() => null);
    if (answer?.ok && !answer.redirected) return present(parse(await answer.text()));
    from.note(words.kept_here);
    waitForLine(from);
  }

  // No line and nothing fetched ahead: the page says so, and goes on by itself.
  function waitForLine(from) {
    const again = setInterval(async () => {
      if (from !== task) return clearInterval(again);
      if (outbox.waiting().some((entry) => entry.id === from.id)) return; // first what is to be sent
      const answer = await fetch(`${from.root.dataset.project}/next`).catch(() => null);
      if (!answer?.ok || answer.redirected) return;
      clearInterval(again);
      present(parse(await answer.text()));
    }, RETRY_EVERY / 4);
  }

  function present(element) {
    $("#workspace").replaceWith(document.importNode(element, true));
    window.scrollTo({ top: 0, behavior: "instant" });
    start();
    // What became of the ranking before is told by #told, which is live itself.
    announce(task ? say("next_task", { count: task.count }) : words.nothing_left);
    document.dispatchEvent(new CustomEvent("plackett:shown"));
  }

  function start() {
    const root = $("#workspace");
    task = root.dataset.assignment ? new Task(root) : null;
    if (!task) { next = null; root.querySelector("[autofocus]")?.focus(); return; }
    task.mark(task.marked);
    $("#timer").textContent = clock(task.seconds);
    fetchAhead();
  }

  // --- dragging: a card by its head, or its chip, to a place in the bar, which is always on the screen

  function makeDraggable(handle, card, owner) {
    handle.addEventListener("pointerdown", (down) => {
      if (down.button !== 0 || down.target.closest("button, select, label")) return;
      // A finger on the head scrolls the page; on the grip or a chip it drags.
      if (down.pointerType !== "mouse" && !down.target.closest(".grip, .chip")) return;
      let ghost = null;
      let over = null;
      const slotAt = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".slot");
      const move = (event) => {
        if (!ghost) {
          if (Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < DRAG_AFTER) return;
          ghost = makeGhost(card);
          owner.mark(card, { focus: false });
          document.body.classList.add("dragging");
        }
        ghost.style.translate = `${event.clientX}px ${event.clientY}px`;
        const slot = slotAt(event);
        if (slot !== over) { over?.classList.remove("over"); slot?.classList.add("over"); over = slot; }
      };
      const end = () => {
        for (const [name, listener] of listeners) window.removeEventListener(name, listener, true);
        over?.classList.remove("over");
        ghost?.remove();
        document.body.classList.remove("dragging");
      };
      const up = (event) => {
        const slot = ghost && slotAt(event);
        end();
        if (slot) { owner.place(card, Number(slot.dataset.tier)); owner.mark(card); }
      };
      const key = (event) => { if (event.key === "Escape") end(); };
      const listeners = [["pointermove", move], ["pointerup", up], ["pointercancel", end], ["keydown", key]];
      for (const [name, listener] of listeners) window.addEventListener(name, listener, true);
      if (down.pointerType !== "mouse") down.preventDefault();
    });
  }

  function makeGhost(card) {
    const ghost = document.createElement("div");
    ghost.className = "ghost";
    const letter = Object.assign(document.createElement("span"), { className: "letter", textContent: card.dataset.letter });
    ghost.append(letter, ` ${$(".prose", card).textContent.trim().slice(0, 60)}…`);
    document.body.append(ghost);
    return ghost;
  }

  // --- time at work: not while the page is hidden, not while nobody moves

  const session = {
    read() { try { return JSON.parse(sessionStorage.getItem("session")) || {}; } catch { return {}; } },
    write(value) { try { sessionStorage.setItem("session", JSON.stringify(value)); } catch { /* forbidden */ } },
    count() { const kept = this.read(); this.write({ ...kept, done: (kept.done || 0) + 1 }); },
    tick() {
      const kept = this.read();
      kept.seconds = (kept.seconds || 0) + 1;
      kept.stretch = (kept.stretch || 0) + 1;
      if (kept.stretch >= PAUSE_AFTER) { kept.stretch = 0; this.suggestPause(); }
      this.write(kept);
    },
    rested() { this.write({ ...this.read(), stretch: 0 }); },
    show() {
      const kept = this.read();
      if (kept.done) $("#session-total").textContent = ` · ${say("session", { count: kept.done, time: clock(kept.seconds || 0) })}`;
    },
    suggestPause() {
      const place = Object.assign(document.createElement("p"), { className: "notice", textContent: `${say("pause", { minutes: Math.round(PAUSE_AFTER / 60) })} ` });
      const button = Object.assign(document.createElement("button"), { type: "button", className: "button small", textContent: words.dismiss });
      button.addEventListener("click", () => place.remove());
      place.append(button);
      $("#told").append(place);
    },
  };

  let lastSign = Date.now();
  for (const sign of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart", "scroll"]) {
    document.addEventListener(sign, () => {
      if (Date.now() - lastSign > RESTED_AFTER) session.rested();
      lastSign = Date.now();
    }, { passive: true, capture: true });
  }
  setInterval(() => {
    if (!task || task.sent || document.hidden || Date.now() - lastSign >= IDLE_AFTER) return;
    task.seconds += 1;
    $("#timer").textContent = clock(task.seconds);
    session.tick();
  }, 1000);

  // --- keys

  function open(id) {
    const dialog = document.getElementById(id);
    if (!dialog) return;
    dialog.showModal();
    if (id === "difference-dialog") {
      // From the marked response to the next one.
      const at = task.cards.indexOf(task.marked);
      const [one, other] = $$("select", dialog);
      one.selectedIndex = at;
      other.selectedIndex = (at + 1) % task.cards.length;
      task.compare();
    }
  }

  document.addEventListener("keydown", (event) => {
    if (!task || event.altKey || event.metaKey || document.body.classList.contains("dragging")) return;
    const typing = event.target.matches("input:not([type=radio], [type=checkbox]), textarea, select");
    if (event.key === "Enter" && (event.ctrlKey || !typing)) {
      const onControl = event.target.closest("button, a, summary, input[type=checkbox], select");
      if (document.querySelector("dialog[open]") || (onControl && !event.ctrlKey)) return;
      event.preventDefault();
      task.submit();
      return;
    }
    if (typing || event.ctrlKey || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onRadio = event.target.matches("input[type=radio]");
    const sideways = (by) => (task.pair ? task.move(by) : task.step(by));
    const actions = {
      ArrowRight: () => sideways(1), ArrowLeft: () => sideways(-1), j: () => task.step(1), k: () => task.step(-1),
      ArrowDown: () => (event.shiftKey ? task.move(1) : task.step(1)), ArrowUp: () => (event.shiftKey ? task.move(-1) : task.step(-1)),
      Backspace: () => task.digit(0), u: () => task.undo(), x: () => { task.touched = true; task.unfold(task.marked); },
      d: () => open("difference-dialog"), n: () => task.toggleNone(), b: () => $("#back")?.click(),
      s: () => open("skip-dialog"), g: () => open("guidelines-dialog"), "?": () => open("keys-dialog"),
    };
    if (/^[0-9]$/.test(key)) {
      event.preventDefault();
      task.touched = true;
      task.digit(Number(key));
    } else if (actions[key] && !(onRadio && key.startsWith("Arrow"))) {
      event.preventDefault();
      actions[key]();
    }
  });

  // --- the page's life

  for (const button of $$(".rate-head [data-dialog]")) button.addEventListener("click", () => open(button.dataset.dialog));
  document.documentElement.classList.replace("no-js", "js");
  session.show();
  start();
  outbox.retry();
  window.addEventListener("online", () => outbox.retry());
  setInterval(() => { if (outbox.waiting().length) outbox.retry(); }, RETRY_EVERY);
})();
