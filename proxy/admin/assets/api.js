// Asking the admin endpoint. The token lives in this module's memory, and nowhere else.

let token = null;

// The endpoint asks for a token, or for another one.
export class Locked extends Error {}

// Nobody answered, or nobody who could be understood.
export class Silent extends Error {}

export const hasToken = () => token !== null;

// False: no token looks like that.
export function setToken(given) {
  if (!/^[!-~]+$/.test(given)) return false;
  token = given;
  return true;
}

export function forgetToken() {
  token = null;
}

// Status and members of an answer. Throws Locked, and Silent where none comes within so many seconds.
export async function ask(path, { body, accept = "application/json", within = 5, signal } = {}) {
  const headers = { Accept: accept };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const control = new AbortController();
  const stop = () => control.abort();
  const timer = setTimeout(stop, within * 1000);
  signal?.addEventListener("abort", stop);
  try {
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: control.signal,
    });
    if (response.status === 401) throw new Locked();
    const members = await response.json();
    return { status: response.status, members: members ?? {} };
  } catch (error) {
    if (error instanceof Locked) throw error;
    if (control.signal.aborted) throw new Silent("it does not answer in time");
    throw new Silent(error instanceof TypeError ? "it cannot be reached" : "what it answers cannot be understood");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

// What a problem document says, as lines.
export function problem({ status, members }) {
  const mistakes = Array.isArray(members.errors) ? members.errors : [];
  const lines = mistakes.map((one) => `${one.at} ${one.what}: ${one.instead}.`);
  return [members.detail ?? `The endpoint answered ${status}.`, ...lines];
}
