/**
 * The state of a PHR refresh in the browser: `StatusPoller` asks for it, `<phr-refresh-status>` shows it.
 *
 * One ES module, no dependency, no build step. It keeps nothing in any storage, and sends no identifier:
 * who is asking is the server's to know, by the page's own session.
 */

/** How long what takes: `wait` in seconds, all others in milliseconds. `new StatusPoller(src, { times })` replaces some. */
export const TIMES = Object.freeze({
  wait: 25, // that the server may hold a request while a refresh runs (Prefer: wait)
  grace: 15_000, // on top of that, before a request counts as lost
  shortest: 250, // between two requests, whatever the server says
  longest: 3_600_000, // of a Retry-After: a refresh window
  unsaid: 2_000, // where a running refresh comes without a Retry-After
  backoff: 1_000, // doubles with each failure in a row; what is waited is random, up to that
  backoffMax: 60_000,
  fresh: 30_000, // a settled status younger than this is not asked for when a tab becomes visible
  leader: 2_000, // that another tab may take to say what it knows
  // A login hands its work over: the first status after it may be one moment too early.
  settling: Object.freeze([1_000, 2_000, 4_000]),
  // And so does a request to refresh.
  expecting: Object.freeze([500, 1_000, 2_000, 4_000, 8_000, 8_000]),
});

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const NOT_TO_BE_RETRIED = (status) => status >= 400 && status < 500 && ![408, 425, 429].includes(status);

/** An HTTP-date (RFC 9110, 5.6.7: all three forms) in epoch milliseconds; NaN for anything else. */
export function httpDate(text) {
  // Not Date.parse, which reads a date into almost anything, "-5" included.
  const common = /^\w+, (\d\d)[ -](\w{3})[ -](\d{4}|\d\d) (\d\d):(\d\d):(\d\d) GMT$/.exec(text);
  const old = /^\w{3} (\w{3}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})$/.exec(text);
  const parts = common ? common.slice(1) : old && [old[2], old[1], old[6], old[3], old[4], old[5]];
  if (!parts || !MONTHS.includes(parts[1])) return NaN;
  const [day, month, year, ...time] = parts;
  return Date.UTC(year.length === 2 ? 2000 + Number(year) : Number(year), MONTHS.indexOf(month), Number(day), ...time);
}

/** The milliseconds that Retry-After asks for; null where it says nothing that can be understood. */
export function retryAfter(headers, now = Date.now()) {
  const text = headers.get("Retry-After")?.trim() ?? "";
  if (/^\d+$/.test(text)) return Math.min(Number(text) * 1000, Number.MAX_SAFE_INTEGER);
  const at = httpDate(text);
  // The date is by the server's clock, and so is the Date of the answer: this one may be wrong.
  const from = httpDate(headers.get("Date") ?? "");
  return Number.isNaN(at) ? null : Math.max(at - (Number.isNaN(from) ? now : from), 0);
}

async function jsonOf(response) {
  try {
    const body = await response.json();
    return body !== null && typeof body === "object" ? body : {};
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

async function digest(text) {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The tabs of one browser at one mount: one of them leads (Web Locks), all of them talk (BroadcastChannel). */
class Tabs {
  #lock;
  #key;
  #channel = null;
  #wish = null;

  constructor(mount, key, hear) {
    this.#lock = `phr-refresh/1 ${mount} ${key}`;
    this.#key = key;
    if (!navigator.locks || !globalThis.BroadcastChannel) return;
    // One channel for all logins: a new one ends what tabs of the last one still show.
    this.#channel = new BroadcastChannel(`phr-refresh/1 ${mount}`);
    this.#channel.onmessage = ({ data }) => hear(data);
  }

  get alone() {
    return this.#channel === null;
  }

  /** Have `lead` called once no other tab leads. */
  enlist(lead) {
    if (this.alone) return lead();
    const { signal } = (this.#wish = new AbortController());
    const held = () => {
      if (signal.aborted) return undefined;
      lead();
      // The lock is held until then, or until the browser drops it because the tab is gone.
      return new Promise((release) => signal.addEventListener("abort", release));
    };
    return navigator.locks.request(this.#lock, { signal }, held).catch(() => {
      if (!signal.aborted) lead();
    });
  }

  resign() {
    this.#wish?.abort();
    this.#wish = null;
  }

  tell(type, more = {}) {
    this.#channel?.postMessage({ type, key: this.#key, ...more });
  }

  close() {
    this.resign();
    this.#channel?.close();
    this.#channel = null;
  }
}

/** Conditions in which nothing is asked any more. */
const ENDED = new Set(["logged_out", "not_eligible", "forbidden", "missing"]);
const AT_FIRST = Object.freeze({
  condition: "checking",
  status: null,
  etag: null,
  at: 0,
  nextAt: null,
  skew: 0,
  requested: false,
  refreshFrom: 0,
  failures: 0,
});
const LEFT = "the tab was left";

const mark = (status) => JSON.stringify([status?.refresh_id ?? null, status?.failure?.at ?? null]);

/**
 * Asks for the status below `src`, and dispatches `change` whenever `snapshot` is another one.
 *
 * A snapshot is frozen: `condition` ("checking", "following", or for good "logged_out", "not_eligible", "forbidden",
 * "missing"), `status` (the JSON of GET status, or null), `failures` (requests in a row that came to nothing),
 * `requested` (a refresh was asked for and does not show yet), `refreshFrom` (when it may be asked for again).
 *
 * It asks while the tab is visible: one tab of a browser for all. Options: `progress` (true: told of each step; false:
 * of the end, with fewer requests), `csrfHeader` and `csrfToken` for POST, `userKey` (any text that differs between
 * users of the portal; without it, tabs believe each other only what they have checked themselves), `times`.
 */
export class StatusPoller extends EventTarget {
  #base = null;
  #options;
  #times;
  #tabs = null;
  #snapshot = AT_FIRST;
  #started = false;
  #present = false;
  #leads = false;
  #request = null;
  #timer = undefined;
  #awaited = null;

  constructor(src, options = {}) {
    super();
    this.#options = { progress: true, random: Math.random, ...options };
    this.#times = { ...TIMES, ...options.times };
    this.#base = mountOf(src);
  }

  get snapshot() {
    return this.#snapshot;
  }

  /** Whether this tab is the one that asks. */
  get leads() {
    return this.#leads;
  }

  /** Now, by the server's clock. */
  get now() {
    return Date.now() + this.#snapshot.skew;
  }

  /** When `refresh` can have an effect, in epoch milliseconds of the server; null while it cannot. */
  get refreshableFrom() {
    const { condition, status, requested, refreshFrom } = this.#snapshot;
    if (condition !== "following" || !status || status.under_way || requested || status.state === "complete") return null;
    return Math.max(Date.parse(status.failure?.retry_at ?? "") || 0, refreshFrom);
  }

  set csrfToken(token) {
    this.#options.csrfToken = token;
  }

  async start() {
    if (this.#started) return;
    this.#started = true;
    if (this.#base === null) return this.#change({ condition: "missing" });
    const { userKey } = this.#options;
    const key = userKey && globalThis.crypto?.subtle ? await digest(userKey) : "";
    if (!this.#started) return;
    this.#tabs = new Tabs(this.#base.pathname, key, (message) => this.#hear(message, key));
    this.#awaited = { mark: null, pauses: [...this.#times.settling] };
    document.addEventListener("visibilitychange", this.#look);
    addEventListener("pagehide", this.#leave);
    addEventListener("pageshow", this.#look);
    addEventListener("online", this.#online);
    this.#tabs.tell("arrived");
    this.#look();
  }

  stop() {
    this.#started = false;
    document.removeEventListener("visibilitychange", this.#look);
    removeEventListener("pagehide", this.#leave);
    removeEventListener("pageshow", this.#look);
    removeEventListener("online", this.#online);
    this.#leave();
    this.#tabs?.close();
    this.#tabs = null;
  }

  /** Ask now, because the page knows of something new; settles when `snapshot` is that of the answer. */
  async check() {
    this.#request?.abort(LEFT);
    this.#request = null;
    await this.#ask();
  }

  /**
   * Ask the server for a refresh. Never rejects: gives `{ result }`, one of "started", "joined", "window_closed",
   * "unavailable", "logged_out", "not_eligible", "refused" (most often a CSRF token that is too old), "missing".
   */
  async refresh() {
    if (this.#base === null) return { result: "missing" };
    const { csrfHeader, csrfToken } = this.#options;
    const headers = { Accept: "application/json, application/problem+json" };
    if (csrfHeader && csrfToken) headers[csrfHeader] = csrfToken;
    try {
      const response = await this.#fetch("refresh", { method: "POST", headers });
      return this.#requested(response, await jsonOf(response));
    } catch {
      return { result: "unavailable" };
    }
  }

  #requested(response, body) {
    const told = this.#snapshot.status;
    if (response.status === 202 && body.status) {
      const requested = !body.status.under_way;
      this.#change({ ...this.#timing(response), status: body.status, etag: null, at: Date.now(), requested });
      this.#expect(mark(told));
      return { result: body.result };
    }
    const pause = retryAfter(response.headers);
    if (pause !== null) this.#change({ refreshFrom: this.now + Math.min(pause, this.#times.longest) });
    if (response.status === 429) return { result: "window_closed" };
    if (response.status === 401 || response.type === "opaqueredirect") {
      this.#end("logged_out", { tell: true });
      return { result: "logged_out" };
    }
    if (response.status === 403 && body.code === "not_eligible") return { result: "not_eligible" };
    if (response.status === 404 || response.status === 405) return { result: "missing" };
    return { result: NOT_TO_BE_RETRIED(response.status) ? "refused" : "unavailable" };
  }

  /** Keep asking, for some time, until the status is another one than that with `mark`. */
  #expect(known) {
    if (!this.#leads) return this.#tabs?.tell("ask", { mark: known });
    this.#awaited = { mark: known, pauses: [...this.#times.expecting] };
    // A request that the server holds was made before: it would tell too late.
    this.#request?.abort(LEFT);
    this.#request = null;
    return this.#later(this.#times.shortest);
  }

  // Presence: who may ask.

  #look = () => {
    if (document.visibilityState !== "visible") return this.#leave();
    if (this.#present || !this.#started || ENDED.has(this.#snapshot.condition)) return undefined;
    this.#present = true;
    const soon = () => (this.#options.userKey || this.#snapshot.status ? this.#consult() : this.#ask());
    this.#tabs.enlist(() => this.#lead());
    return this.#leads ? undefined : soon();
  };

  #leave = () => {
    this.#present = this.#leads = false;
    clearTimeout(this.#timer);
    this.#request?.abort(LEFT);
    this.#request = null;
    this.#tabs?.resign();
  };

  #online = () => {
    if (this.#leads && this.#snapshot.failures) this.#ask();
  };

  #lead() {
    const { status, requested, nextAt } = this.#snapshot;
    this.#leads = true;
    if (requested) this.#awaited ??= { mark: mark(status), pauses: [...this.#times.expecting] };
    // This tab, or the one that led before, was told when to ask again.
    if (nextAt > Date.now()) this.#later(nextAt - Date.now());
    else if (!this.#isFresh()) this.#ask();
  }

  #isFresh() {
    const { status, nextAt, requested, at } = this.#snapshot;
    return status && nextAt === null && !requested && Date.now() - at < this.#times.fresh;
  }

  /** Have the tab that leads say what it knows; ask in its place if it does not. */
  #consult() {
    const { at } = this.#snapshot;
    this.#tabs.tell("ask");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => at === this.#snapshot.at && !this.#isFresh() && this.#ask(), this.#times.leader);
  }

  #hear(message, key) {
    const { type, snapshot } = message;
    if (message.key !== key) {
      // Somebody else has logged in since: what this tab would be told from now on is not about its user.
      if (type === "arrived" && message.key && key) this.#end("logged_out");
      return;
    }
    if (type === "left") this.#end("logged_out");
    if (type === "ask" && this.#leads) this.#answer(message);
    if (type !== "told" || ENDED.has(this.#snapshot.condition) || snapshot.at < this.#snapshot.at) return;
    // The tab that leads has spoken: there is no need to ask in its place.
    if (!this.#leads) clearTimeout(this.#timer);
    if (this.#believes(snapshot)) this.#change(snapshot);
    else if (this.#present) this.#ask();
  }

  #answer(message) {
    if (message.mark !== undefined) this.#expect(message.mark);
    else if (this.#isFresh() || this.#snapshot.status?.under_way) this.#tabs.tell("told", { snapshot: this.#snapshot });
    else this.#ask();
  }

  /** Without a key, only of a refresh that the server has told this tab about: it may be another user's. */
  #believes({ status }) {
    const known = this.#snapshot.status?.refresh_id;
    return this.#options.userKey || (known && known === status?.refresh_id);
  }

  // Asking.

  #later(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), Math.max(milliseconds, this.#times.shortest));
  }

  async #ask() {
    if (!this.#present || this.#request || ENDED.has(this.#snapshot.condition)) return;
    clearTimeout(this.#timer);
    const request = (this.#request = new AbortController());
    let heard;
    try {
      const response = await this.#fetch("status", { headers: this.#question(), signal: request.signal });
      heard = [response, await jsonOf(response)];
    } catch {
      heard = null;
    }
    if (request.signal.reason === LEFT) return;
    this.#request = null;
    const told = heard ? this.#take(...heard) : this.#failed(null);
    if (!told) return;
    const pause = told.pause === null ? null : Math.max(Math.min(told.pause, this.#times.longest), this.#times.shortest);
    if (this.#leads && pause !== null) this.#later(pause);
    this.#change({ ...told.changes, at: Date.now(), nextAt: pause === null ? null : Date.now() + pause });
    this.#tabs?.tell("told", { snapshot: this.#snapshot });
  }

  #question() {
    const { status, etag } = this.#snapshot;
    const headers = { Accept: "application/json, application/problem+json" };
    // The first one is not held, so that there is something to show.
    if (status?.under_way) headers.Prefer = `wait=${this.#times.wait}`;
    // While a refresh runs, who says what they know is told of each step, others of its end.
    if (etag && (this.#options.progress || !status.under_way)) headers["If-None-Match"] = etag;
    return headers;
  }

  async #fetch(path, { signal, ...options }) {
    const limit = AbortSignal.timeout?.(this.#times.wait * 1000 + this.#times.grace);
    const signals = [signal, limit].filter(Boolean);
    const both = AbortSignal.any ? AbortSignal.any(signals) : signals[0];
    const how = { cache: "no-store", credentials: "same-origin", redirect: "manual", signal: both };
    return fetch(new URL(path, this.#base), { ...how, ...options });
  }

  /** What an answer changes, and the milliseconds until the next request; null if there is to be none. */
  #take(response, body) {
    const { status: code } = response;
    if (code === 304) return { changes: this.#timing(response), pause: this.#pause(this.#snapshot.status, null) };
    if ((code === 200 || code === 202) && typeof body.state === "string") {
      const pause = this.#pause(body, retryAfter(response.headers));
      const requested = Boolean(this.#awaited?.mark);
      return { changes: { ...this.#timing(response), status: body, etag: response.headers.get("ETag"), requested }, pause };
    }
    // Hosts that know no 401 send to their login page.
    if (code === 401 || response.type === "opaqueredirect") this.#end("logged_out", { tell: true });
    else if (code === 403) this.#end(body.code === "not_eligible" ? "not_eligible" : "forbidden");
    else if (NOT_TO_BE_RETRIED(code) || response.ok) this.#end("missing");
    else return this.#failed(retryAfter(response.headers));
    return null;
  }

  #timing(response) {
    const date = httpDate(response.headers.get("Date") ?? "");
    const skew = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now() || 0;
    return { condition: "following", failures: 0, skew };
  }

  #pause(status, asked) {
    if (status.under_way) {
      this.#awaited = null;
      return asked ?? this.#times.unsaid;
    }
    const awaited = this.#awaited;
    const isNews = awaited?.mark ? awaited.mark !== mark(status) : settledForGood(status, this.now);
    if (isNews || !awaited?.pauses.length) this.#awaited = null;
    return this.#awaited ? awaited.pauses.shift() : null;
  }

  #failed(asked) {
    const { failures } = this.#snapshot;
    const { backoff, backoffMax } = this.#times;
    // Full jitter: clients that failed together do not come back together.
    const most = asked === null ? Math.min(backoff * 2 ** Math.min(failures, 20), backoffMax) : backoff;
    return { changes: { failures: failures + 1 }, pause: (asked ?? 0) + this.#options.random() * most };
  }

  /** Forget everything, and ask no more. */
  #end(condition, { tell = false } = {}) {
    if (tell) this.#tabs?.tell("left");
    this.#leave();
    this.#change({ ...AT_FIRST, condition });
  }

  #change(changes) {
    this.#snapshot = Object.freeze({ ...this.#snapshot, ...changes });
    this.dispatchEvent(new CustomEvent("change", { detail: this.#snapshot }));
  }
}

function mountOf(src) {
  try {
    const url = new URL(src, document.baseURI);
    // Elsewhere there is no session of this page, and the headers of answers cannot be read.
    if (url.origin !== location.origin) return null;
    return new URL(url.pathname.replace(/\/*$/, "/"), url.origin);
  } catch {
    return null;
  }
}

/** Whether nothing can be under way behind a settled status, as after a login whose work was not begun yet. */
function settledForGood(status, now) {
  return status.state === "complete" || Date.parse(status.failure?.retry_at ?? "") > now;
}

/** What the element says; `element.strings = { ... }` replaces some. `{name}` is filled in. */
export const STRINGS = Object.freeze({
  checking: "Checking your records…",
  opening: "Connecting to your health records…",
  requested: "Asking for your newest records…",
  refreshing: "Getting your newest records…",
  complete: "Your records are up to date.",
  partial: "Part of your records is up to date.",
  arrived: "New records have arrived.",
  stale: "Your records may be out of date.",
  failed: "Your newest records could not be loaded.",
  idle: "Your newest records have not been loaded yet.",
  logged_out: "You are signed out.",
  logged_out_note: "Sign in again to see your records.",
  not_eligible: "You have no health record account.",
  not_eligible_note: "There are no records of yours to load.",
  forbidden: "You may not see the state of these records.",
  forbidden_note: "",
  missing: "The state of your records cannot be shown here.",
  missing_note: "",
  unreachable: "Your records cannot be checked just now.",
  unreachable_note: "It will be tried again automatically.",
  asOf: "Records as of {time}.",
  progress: "{done} of {total} parts are loaded.",
  preparing: "This may take a few minutes.",
  partsFailed: "{failed} of {total} parts are missing.",
  tryAgain: "You can try again after {time}.",
  unavailable: "That did not work. Try again in a moment.",
  refused: "That did not work. Reload the page first.",
  timed_out: "It took too long.",
  all_extracts_failed: "None of the parts could be loaded.",
  failure: "The records system did not answer as it should.",
  refresh: "Refresh now",
  reload: "Show new records",
  parts: "Details",
  in_progress: "loading",
  current: "up to date",
  extract_failed: "not loaded",
  extracts: Object.freeze({
    Allergy: "Allergies",
    Appointments: "Appointments",
    AppointmentsReminder: "Appointment reminders",
    ChemistryHematology: "Lab results",
    DodMilitaryService: "Military service",
    ImagingStudy: "Imaging studies",
    MASAppointments: "Scheduled appointments",
    VPR: "Health summary",
  }),
});

const STYLE = `
  :host {
    --_ground: var(--phr-refresh-ground, #ffffff);
    --_text: var(--phr-refresh-text, #1b2733);
    --_quiet: var(--phr-refresh-quiet, #4a5866);
    --_line: var(--phr-refresh-line, #c3ccd5);
    --_accent: var(--phr-refresh-accent, #0b5cad);
    --_on-accent: var(--phr-refresh-on-accent, #ffffff);
    --_good: var(--phr-refresh-good, #1a6b36);
    --_warn: var(--phr-refresh-warn, #8a4b00);
    --_track: var(--phr-refresh-track, #e1e7ed);
    display: block;
    container-type: inline-size;
    font: inherit;
    line-height: 1.45;
  }
  @supports (color: light-dark(#000, #fff)) {
    :host {
      --_ground: var(--phr-refresh-ground, light-dark(#ffffff, #18202a));
      --_text: var(--phr-refresh-text, light-dark(#1b2733, #e8edf2));
      --_quiet: var(--phr-refresh-quiet, light-dark(#4a5866, #a9b6c3));
      --_line: var(--phr-refresh-line, light-dark(#c3ccd5, #3b4856));
      --_accent: var(--phr-refresh-accent, light-dark(#0b5cad, #7db8f5));
      --_on-accent: var(--phr-refresh-on-accent, light-dark(#ffffff, #0c1620));
      --_good: var(--phr-refresh-good, light-dark(#1a6b36, #6fce90));
      --_warn: var(--phr-refresh-warn, light-dark(#8a4b00, #f2b866));
      --_track: var(--phr-refresh-track, light-dark(#e1e7ed, #2c3743));
    }
  }
  :host([hidden]) { display: none; }
  * { box-sizing: border-box; }
  p { margin: 0; }
  [data-off] { visibility: hidden; }
  .box {
    --_mark: var(--_accent);
    position: relative;
    display: grid;
    /* Each row keeps its place, filled or not: what is below does not jump. */
    grid-template:
      "sign summary" minmax(1.45em, auto)
      "sign words" minmax(1.45em, auto)
      "sign parts" minmax(2.75rem, auto) / auto minmax(0, 1fr);
    gap: .3rem .75rem;
    padding: 1rem 1.1rem .8rem;
    overflow: clip;
    color: var(--_text);
    background: var(--_ground);
    border: 1px solid var(--_line);
    border-inline-start: .3rem solid var(--_mark);
    border-radius: .5rem;
  }
  .box[data-mood="good"] { --_mark: var(--_good); }
  .box[data-mood="warn"] { --_mark: var(--_warn); }
  .sign {
    grid-area: sign;
    inline-size: 1.25rem;
    block-size: 1.25rem;
    margin-block-start: .1rem;
    fill: none;
    stroke: var(--_mark);
    stroke-width: 2;
    stroke-linecap: round;
    stroke-linejoin: round;
  }
  .sign path { display: none; }
  .box[data-mood="busy"] .busy, .box[data-mood="good"] .good, .box[data-mood="warn"] .warn, .box[data-mood="calm"] .calm { display: inline; }
  .busy { transform-box: view-box; transform-origin: center; animation: turn 1.2s linear infinite; }
  @keyframes turn { to { transform: rotate(1turn); } }
  .summary { grid-area: summary; font-weight: 600; outline: none; }
  .words { grid-area: words; color: var(--_quiet); }
  .bar {
    position: absolute;
    inset: auto 0 0;
    appearance: none;
    inline-size: 100%;
    block-size: .4rem;
    border: 0;
    background: var(--_track);
    color: var(--_accent);
  }
  .bar::-webkit-progress-bar { background: var(--_track); }
  .bar::-webkit-progress-value { background: var(--_accent); transition: inline-size .4s; }
  .bar::-moz-progress-bar { background: var(--_accent); }
  .bar:indeterminate::-webkit-progress-bar {
    background: repeating-linear-gradient(115deg, var(--_track) 0 .75rem, var(--_line) .75rem 1.5rem);
  }
  .bar:indeterminate::-moz-progress-bar { background: var(--_track); }
  .parts { grid-area: parts; }
  .parts summary { color: var(--_accent); line-height: 2.75rem; cursor: pointer; inline-size: fit-content; border-radius: .2rem; }
  ul { display: grid; gap: .2rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); margin: 0; padding: 0 0 .5rem; list-style: none; }
  li { display: flex; justify-content: space-between; gap: 1rem; padding-block: .15rem; border-block-end: 1px solid var(--_line); }
  li span + span { color: var(--_quiet); white-space: nowrap; }
  li[data-state="current"] span + span { color: var(--_good); }
  li[data-state="failed"] span + span { color: var(--_warn); }
  /* As wide as the row, whatever is in it, and not in the way of what lies below. */
  .buttons { grid-area: parts; align-self: start; display: flex; justify-content: end; pointer-events: none; }
  button[data-off] { display: none; }
  button {
    min-block-size: 2.75rem;
    padding: .5rem 1rem;
    font: inherit;
    font-weight: 600;
    color: var(--_on-accent);
    background: var(--_accent);
    border: 1px solid transparent;
    border-radius: .4rem;
    cursor: pointer;
    pointer-events: auto;
  }
  button:hover { text-decoration: underline; }
  button:focus-visible, .parts summary:focus-visible { outline: 3px solid var(--_accent); outline-offset: 3px; }
  @container (width < 48rem) {
    .words { min-block-size: 2.9em; }
  }
  @container (width < 34rem) {
    .summary { min-block-size: 2.9em; }
    .words { min-block-size: 4.35em; }
  }
  @container (width < 24rem) {
    .words { min-block-size: 5.8em; }
  }
  @media (prefers-reduced-motion: reduce) {
    .busy { animation: none; }
    .bar::-webkit-progress-value { transition: none; }
  }
  @media (forced-colors: active) {
    .bar { border: 1px solid; }
  }
`;

const SIGNS = {
  busy: "M12 3a9 9 0 1 1-9 9",
  good: "M4 12.5l5.5 5.5L20 6.5",
  warn: "M12 3.5L2.5 20.5h19zM12 10v4.500M12 17.500v.01",
  calm: "M12 3a9 9 0 1 0 .01 0zM12 11v5M12 8v.01",
};

const filledIn = (element, attributes, inside) => {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
};
const html = (name, attributes, ...inside) => filledIn(document.createElement(name), attributes, inside);
const svg = (name, attributes, ...inside) =>
  filledIn(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, inside);

/** What the element shows, built node by node: text that becomes markup is what Trusted Types forbid. */
const content = () =>
  html("section", { class: "box", part: "box", "data-mood": "calm" },
    svg("svg", { class: "sign", part: "sign", viewBox: "0 0 24 24", "aria-hidden": "true" },
      ...Object.entries(SIGNS).map(([name, d]) => svg("path", { class: name, d }))),
    html("p", { class: "summary", part: "summary", role: "status", tabindex: "-1" }),
    html("p", { class: "words", part: "words" }),
    html("progress", { class: "bar", part: "progress", "data-off": "" }),
    html("details", { class: "parts", part: "parts", "data-off": "" },
      html("summary", { part: "parts-summary" }, "\u00a0"), html("ul", {})),
    html("div", { class: "buttons" },
      html("button", { type: "button", part: "button refresh", class: "refresh", "data-off": "" }),
      html("button", { type: "button", part: "button reload", class: "reload", "data-off": "" })));

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const inWords = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2");
const LONGEST_TIMER = 2_147_483_647;

/** What to say of a snapshot: keys of `STRINGS` and a mood, without an element. */
export function viewOf({ condition, status, requested, failures }, hasNews = false) {
  if (ENDED.has(condition)) return { summary: condition, mood: condition === "not_eligible" ? "calm" : "warn" };
  if (!status) return failures > 1 ? { summary: "unreachable", mood: "warn" } : { summary: "checking", mood: "busy" };
  if (requested) return { summary: "requested", mood: "busy" };
  if (status.under_way) return { summary: status.state === "refreshing" ? "refreshing" : "opening", mood: "busy" };
  if (hasNews) return { summary: "arrived", mood: "good" };
  if (status.state === "complete") {
    return status.partial ? { summary: "partial", mood: "warn" } : { summary: "complete", mood: "good" };
  }
  if (status.failure) return { summary: "failed", mood: "warn" };
  return status.as_of ? { summary: "stale", mood: "warn" } : { summary: "idle", mood: "calm" };
}

/**
 * `<phr-refresh-status src="/phr/">`: shows how the refresh stands.
 *
 * Attributes: `src`, `csrf-header`, `csrf-token`, `user-key`, `wait` (seconds). Property: `strings`. Events: `new-data`,
 * `reload` (both do something unless prevented), `phr-refresh-change`. What it throws at a page that is set up wrong is
 * a sentence in its place, never an error.
 */
export class PhrRefreshStatus extends HTMLElement {
  static observedAttributes = ["src", "user-key", "csrf-header", "csrf-token", "wait"];

  #parts = {};
  #poller = null;
  #strings = STRINGS;
  #before = null;
  #hasNews = false;
  #said = "";
  #again = undefined;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    // Not a style element: a Content-Security-Policy may forbid those.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet];
    root.append(content());
    for (const name of ["box", "summary", "words", "bar", "parts", "refresh", "reload"]) {
      this.#parts[name] = root.querySelector(`.${name}`);
    }
    this.#parts.refresh.addEventListener("click", () => this.refresh());
    this.#parts.reload.addEventListener("click", () => this.#reload());
  }

  /** The poller behind this element, null while it is in no document. */
  get poller() {
    return this.#poller;
  }

  get strings() {
    return this.#strings;
  }

  set strings(strings) {
    this.#strings = { ...STRINGS, ...strings, extracts: { ...STRINGS.extracts, ...strings?.extracts } };
    this.#render();
  }

  connectedCallback() {
    const wait = Number(this.getAttribute("wait"));
    this.#poller = new StatusPoller(this.getAttribute("src") ?? "", {
      csrfHeader: this.getAttribute("csrf-header"),
      csrfToken: this.getAttribute("csrf-token"),
      userKey: this.getAttribute("user-key"),
      times: wait >= 1 ? { wait: Math.floor(wait) } : {},
    });
    this.#before = null;
    this.#hasNews = false;
    this.#poller.addEventListener("change", this.#changed);
    this.#render();
    this.#poller.start();
  }

  disconnectedCallback() {
    clearTimeout(this.#again);
    this.#poller?.removeEventListener("change", this.#changed);
    this.#poller?.stop();
    this.#poller = null;
  }

  attributeChangedCallback(name, before, now) {
    if (!this.#poller || before === now) return;
    if (name === "csrf-token") {
      this.#poller.csrfToken = now;
    } else {
      this.disconnectedCallback();
      this.connectedCallback();
    }
  }

  /** Ask for a refresh, as the button does. */
  async refresh() {
    if (!this.#poller || this.#parts.refresh.hasAttribute("aria-disabled")) return;
    // Not `disabled`, which would lose the focus.
    this.#parts.refresh.setAttribute("aria-disabled", "true");
    const { result } = await this.#poller.refresh();
    this.#parts.refresh.removeAttribute("aria-disabled");
    this.#said = ["unavailable", "refused"].includes(result) ? result : "";
    this.#render();
  }

  #reload() {
    this.#hasNews = false;
    if (this.#tell("reload")) location.reload();
    else this.#render();
  }

  #tell(type, detail = null) {
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, composed: true, cancelable: true }));
  }

  #changed = ({ detail: snapshot }) => {
    const { status } = snapshot;
    const before = this.#before;
    if (status) this.#before = status;
    if (status?.under_way || snapshot.requested) this.#said = "";
    if (status && !isNewData(before, status)) this.#hasNews &&= status.state === "complete";
    // Whoever prevents the default shows the new data by itself.
    else if (status) this.#hasNews = this.#tell("new-data", { asOf: status.as_of });
    this.#render();
    this.#tell("phr-refresh-change", snapshot);
  };

  #render() {
    if (!this.#poller) return;
    const { snapshot } = this.#poller;
    const { summary, mood } = viewOf(snapshot, this.#hasNews);
    const { box } = this.#parts;
    const status = ENDED.has(snapshot.condition) ? null : snapshot.status;
    box.dataset.mood = mood;
    box.dataset.view = summary;
    // The live region: written to only when it says something else.
    this.#write(this.#parts.summary, this.#strings[summary]);
    this.#renderWords(status?.as_of, this.#noteOf(snapshot, summary));
    this.#renderProgress(status, mood === "busy" && status);
    this.#renderButtons(snapshot);
  }

  #noteOf({ status, failures }, summary) {
    const { strings } = this;
    if (ENDED.has(summary)) return strings[`${summary}_note`];
    if (failures > 1) return status ? strings.unreachable : strings.unreachable_note;
    if (["refreshing", "opening", "requested"].includes(summary)) return this.#progressOf(status);
    const retryAt = this.#poller.refreshableFrom;
    const isClosed = retryAt !== null && retryAt > this.#poller.now;
    const later = isClosed ? filled(strings.tryAgain, { time: this.#time(new Date(retryAt)) }) : "";
    if (this.#said) return later || strings[this.#said];
    if (summary === "failed") return `${strings[status.failure.code] ?? strings.failure} ${later}`.trim();
    if (!status?.partial) return later;
    const failed = status.extracts.filter(({ state }) => state === "failed").length;
    return filled(strings.partsFailed, { failed, total: status.extracts.length });
  }

  #progressOf({ extracts, state }) {
    const done = extracts.filter((extract) => extract.state !== "in_progress").length;
    const known = state === "refreshing" && extracts.length;
    return known ? filled(this.#strings.progress, { done, total: extracts.length }) : this.#strings.preparing;
  }

  #renderWords(asOf, note) {
    const { words } = this.#parts;
    const [before, after = ""] = this.#strings.asOf.split("{time}");
    const time = document.createElement("time");
    time.dateTime = asOf ?? "";
    time.textContent = asOf ? this.#time(new Date(asOf)) : "";
    const said = asOf ? [before, time, after, note && ` ${note}`] : [note];
    const text = said.map((part) => part.textContent ?? part).join("");
    // All of it anew: what stays in place does not move.
    if (words.textContent !== text) words.replaceChildren(...said.filter(Boolean));
  }

  #renderProgress(status, isBusy) {
    const { bar, parts } = this.#parts;
    const extracts = status?.extracts ?? [];
    const done = extracts.filter(({ state }) => state !== "in_progress").length;
    this.#show(bar, Boolean(isBusy));
    if (extracts.length && status.state === "refreshing") {
      bar.max = extracts.length;
      bar.value = done;
    } else {
      bar.removeAttribute("value");
    }
    bar.setAttribute("aria-label", this.#strings.refreshing);
    this.#show(parts, extracts.length > 0);
    this.#write(parts.querySelector("summary"), this.#strings.parts);
    this.#renderList(parts.querySelector("ul"), extracts);
  }

  #renderList(list, extracts) {
    // Rows are changed in place: a screen reader in the middle of them stays where it is.
    while (list.children.length > extracts.length) list.lastChild.remove();
    extracts.forEach(({ name, state }, place) => {
      const row = list.children[place] ?? list.appendChild(document.createElement("li"));
      if (!row.firstChild) row.append(document.createElement("span"), document.createElement("span"));
      row.part = `extract ${state}`;
      row.dataset.state = state;
      this.#write(row.firstChild, this.#nameOf(name));
      this.#write(row.lastChild, this.#strings[state === "failed" ? "extract_failed" : state] ?? state);
    });
  }

  #renderButtons({ failures }) {
    const { refresh, reload, summary } = this.#parts;
    const from = this.#poller.refreshableFrom;
    const left = from === null ? Infinity : from - this.#poller.now;
    const focused = this.shadowRoot.activeElement;
    this.#write(refresh, this.#strings.refresh);
    this.#write(reload, this.#strings.reload);
    this.#show(reload, this.#hasNews);
    this.#show(refresh, left <= 0 && !failures && !this.#hasNews);
    // Who pressed a button that is gone is not thrown back to the top of the page.
    if (focused?.hasAttribute("data-off")) summary.focus({ preventScroll: true });
    clearTimeout(this.#again);
    if (left > 0 && left < LONGEST_TIMER) this.#again = setTimeout(() => this.#render(), left + 50);
  }

  #show(element, isOn) {
    element.toggleAttribute("data-off", !isOn);
  }

  #write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  #nameOf(extract) {
    return this.#strings.extracts[extract] ?? inWords(extract);
  }

  #time(date) {
    const now = new Date();
    const style = { hour: "numeric", minute: "2-digit" };
    if (date.toDateString() !== now.toDateString()) Object.assign(style, { day: "numeric", month: "short" });
    if (date.getFullYear() !== now.getFullYear()) style.year = "numeric";
    return new Intl.DateTimeFormat(this.closest("[lang]")?.lang || undefined, style).format(date);
  }
}

function isNewData(before, status) {
  if (!before || status.state !== "complete") return false;
  return before.state === "refreshing" || before.as_of !== status.as_of || before.refresh_id !== status.refresh_id;
}

if (globalThis.customElements && !customElements.get("phr-refresh-status")) {
  customElements.define("phr-refresh-status", PhrRefreshStatus);
}
