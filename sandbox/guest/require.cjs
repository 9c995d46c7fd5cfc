// Lets a script that awaits at its top, which makes it an ES module, load modules by `require` as well. Node starts it before the script.
"use strict";

if (require("worker_threads").isMainThread) {
  globalThis.require = require("module").createRequire(process.argv[1]);
}
