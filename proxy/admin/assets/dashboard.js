// The page: what is shown when there are numbers, when there is no contact, and when a token is wanted.

import { forgetToken, hasToken, setToken } from "./api.js";
import { Explain } from "./explain.js";
import { Live } from "./live.js";
import { whole } from "./numbers.js";
import { Purge } from "./purge.js";
import { byId, Screen } from "./screen.js";

const OLD = 7; // seconds after which numbers are not called live

let newest = null; // when the last numbers came, in ms of this page
let why = ""; // there are none
let refused = false; // the token was

const screen = new Screen((what, url) => (what === "Purge" ? purge : explain).offer(url));
const purge = new Purge(locked);
const explain = new Explain(locked);
const live = new Live({ told, lost, locked });

function told(readings, more) {
  screen.show(readings, more);
  if (why) say("Contact is back.");
  [newest, why] = [performance.now(), ""];
  open(true);
  age();
}

function lost(reason) {
  if (!why) say("Contact is lost.");
  why = reason;
  age();
}

function locked() {
  live.close();
  refused = hasToken();
  forgetToken();
  [newest, why] = [null, ""];
  open(false);
  byId("gate-problem").textContent = refused ? "That is not the token, or not any more." : "";
  byId("token").value = "";
  byId("token").focus();
  age();
}

function open(shown) {
  const first = byId("main").hidden && shown;
  byId("gate").hidden = shown || newest !== null;
  byId("main").hidden = byId("nav").hidden = !shown;
  byId("lock").hidden = !shown || !hasToken();
  if (first && hasToken()) byId("main").focus({ preventScroll: true });
}

function say(text) {
  byId("news").textContent = text;
}

// How old the numbers are, in words that are right every second.
function age() {
  const contact = byId("contact");
  const banner = byId("lost");
  const old = newest === null ? null : (performance.now() - newest) / 1000;
  const gone = why !== "";
  banner.hidden = !gone;
  byId("ready").hidden = gone || newest === null;
  document.body.classList.toggle("old", gone);
  if (gone) {
    contact.className = "pill bad";
    contact.textContent = "No contact";
    const since = old === null ? "There are no numbers yet." : `The numbers are ${whole(old)} old.`;
    const text = `No contact with the admin endpoint: ${why}. ${since} Trying again every 2 seconds.`;
    if (banner.textContent !== text) banner.textContent = text;
  } else if (old !== null) {
    contact.className = old > OLD ? "pill warn" : "pill good";
    contact.textContent = old < 3 ? "Live" : `${whole(old)} old`;
  } else {
    contact.className = "pill";
    contact.textContent = byId("gate").hidden ? "Connecting…" : "Locked";
  }
}

byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("token");
  const given = field.value;
  field.value = "";
  if (!setToken(given.trim())) {
    byId("gate-problem").textContent = "No token looks like that: it is visible ASCII without spaces.";
    return;
  }
  byId("gate-problem").textContent = "";
  live.open();
});

byId("lock").addEventListener("click", () => location.reload()); // everything that the page knows is gone with it

setInterval(age, 1000);
live.open();
