// Talking to the server: the token, and errors in words for people.

export class Trouble extends Error {
  constructor(message, { status = 0, wait = 0, again = false } = {}) {
    super(message);
    Object.assign(this, { status, wait, again });
  }
}

const KEY = "newslora-token";
let askToken = async () => false;

export const onToken = (ask) => { askToken = ask; };
export const keepToken = (token) => sessionStorage.setItem(KEY, token);

export async function call(path, body, signal) {
  const response = await request(path, body, signal);
  if (response.status === 401 && await askToken()) return call(path, body, signal);
  if (!response.ok) throw await trouble(response);
  return response.json();
}

async function request(path, body, signal) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { headers, signal };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached. It may have been stopped, or the connection is down.", { again: true });
  }
}

async function trouble(response) {
  const { error = "" } = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After")) || 5;
  const { status } = response;
  if (status === 401) return new Trouble("The server did not accept the token.", { status, again: true });
  if (status === 404) return new Trouble("This model is no longer served. Choose another one above.", { status });
  if (status === 408 || status === 503) return new Trouble("That took too long. Please try again.", { status, wait, again: true });
  if (status === 413) return new Trouble("That is more text than the server takes at once. Please shorten it.", { status });
  if (status === 422) return new Trouble(`The server could not read this: ${error}`, { status });
  if (status === 429) return new Trouble("The server is busy at the moment. Please try again in a few seconds.", { status, wait, again: true });
  return new Trouble("Something went wrong on the server. Its log says what.", { status, again: true });
}
