// What code in a job can ask of the run that it belongs to. Node's own modules only.
//
// Every call is decided by the run's policy and paid from its budget, as if the model had made it. One request is answered after another.
"use strict";

const net = require("net");
const { isMainThread } = require("worker_threads");

const REQUEST_MAX = 256 * 1024;
const REPLY_MAX = 1024 * 1024;
const LENGTH_BYTES = 4;

/** The run refused a request. `code` is the stable, dotted code of the reason, `message` the reason in words. */
class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The connection to the run is gone, and no later request will be answered. */
class Lost extends Refused {}

/**
 * Calls a tool of the run, and resolves to what it returned. Rejects with `Refused`, or `Lost` if nobody answers any more.
 * @param {string} name The tool's name.
 * @param {object} [args] Its arguments, of what JSON can say.
 */
async function tool(name, args = {}) {
  return ask("tool", name, args);
}

/**
 * Says something on a channel of the run.
 * @param {string} channel The channel's name.
 * @param {*} data Anything that JSON can say.
 */
async function emit(channel, data = null) {
  await ask("emit", channel, { data });
}

/**
 * Names a source of what the job says.
 * @param {string} source What it is.
 * @param {object} [details] Where in it, and whatever else is to be said of it.
 */
async function cite(source, details = {}) {
  return ask("cite", source, details);
}

let link = null;
let waiting = null; // whoever waits for the reply to the one request that is under way
let received = Buffer.alloc(0);
let turn = Promise.resolve();
const [, descriptor, token] = /^(\d+):(.+)$/.exec(process.env.HOLDFAST_GUEST ?? "") ?? [];

function ask(kind, name, args) {
  if (token === undefined || !isMainThread) {
    const who = isMainThread ? "This job" : "A thread besides the first";
    throw new Refused("supervisor.absent", `${who} was given no way to ask its run for anything.`);
  }
  if (typeof name !== "string" || args === null || typeof args !== "object" || Array.isArray(args)) {
    throw new TypeError("a request has a name, which is a text, and arguments, which are an object");
  }
  const body = Buffer.from(JSON.stringify({ token, kind, name, arguments: args }, finite));
  if (body.length > REQUEST_MAX) {
    throw new Refused("request.too_large", `A request may have ${REQUEST_MAX} bytes.`);
  }
  const asked = turn.then(() => exchange(body));
  turn = asked.catch(() => {});
  return asked;
}

function finite(_key, value) {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`${value} cannot be said in JSON`); // which would make null of it, and so another request
  }
  return value;
}

async function exchange(body) {
  const head = Buffer.alloc(LENGTH_BYTES);
  head.writeUInt32BE(body.length);
  const reply = await new Promise((resolve, reject) => {
    connect();
    if (link.destroyed) {
      reject(lost());
      return;
    }
    waiting = { resolve, reject };
    link.ref(); // the process stays until it is answered
    link.write(Buffer.concat([head, body]));
  });
  if (reply.refused !== undefined) {
    throw new Refused(reply.refused.code, reply.refused.message);
  }
  return reply.value;
}

function connect() {
  if (link !== null) {
    return;
  }
  link = new net.Socket({ fd: Number(descriptor), readable: true, writable: true });
  link.on("data", take);
  link.on("error", () => {}); // it is closed, too
  link.on("close", () => settle("reject", lost()));
  link.on("end", () => link.destroy());
}

function take(part) {
  received = Buffer.concat([received, part]);
  if (received.length < LENGTH_BYTES) {
    return;
  }
  const size = received.readUInt32BE(0);
  if (size > REPLY_MAX) {
    link.destroy();
    return;
  }
  if (received.length >= LENGTH_BYTES + size) {
    const reply = JSON.parse(received.subarray(LENGTH_BYTES, LENGTH_BYTES + size).toString());
    received = received.subarray(LENGTH_BYTES + size);
    settle("resolve", reply);
  }
}

function settle(how, what) {
  const whoever = waiting;
  waiting = null;
  link.unref();
  whoever?.[how](what);
}

function lost() {
  return new Lost("supervisor.lost", "The run no longer answers this job.");
}

module.exports = { tool, emit, cite, Refused, Lost };
