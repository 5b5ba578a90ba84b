import assert from "node:assert/strict";
import { lstat, readdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { verifyModel } from "../../src/hub/cached_models.ts";
import { blobs, cache, cacheDir, hub, NAME, pull, rejectsSaying, useHub, WEIGHTS, weightsId } from "./served_repo.ts";

useHub();

describe("pullModel() from a hub that lies", () => {
  test("refuses a file that is longer than announced, before it writes more than that", async () => {
    hub.faults.set(WEIGHTS, { extra: 100_000 });
    await rejectsSaying(pull(), /the hub sends \d+ bytes or more, it announced 300000$/);
    const partial = await lstat(cache().partial(await weightsId())).catch(() => undefined);
    assert.ok((partial?.size ?? 0) <= 300_000);
    assert.equal((await blobs()).includes(await weightsId()), false);
  });

  test("refuses a file that is shorter than announced", async () => {
    hub.faults.set(WEIGHTS, { announceMore: 50 });
    await rejectsSaying(pull(), /^Cannot get .* after 300000 of 300050 bytes/);
    assert.equal((await blobs()).includes(await weightsId()), false);
  });

  test("refuses damaged files, large and small, and leaves nothing of them", async () => {
    for (const name of ["config.json", WEIGHTS]) {
      hub.faults.clear();
      hub.faults.set(name, { damaged: true });
      await rejectsSaying(pull(), /what came is damaged, (sha256|git's sha1) [0-9a-f]+, wanted [0-9a-f]+$/);
      assert.equal((await blobs()).some((blob) => blob.endsWith(".incomplete")), false);
    }
    hub.faults.clear();
    await pull();
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
  });

  test("refuses paths that lead out of the cache or are not the same everywhere", async () => {
    const paths = [
      "../x.json",
      "a/../../config.json",
      "/etc/passwd",
      "a\\b",
      "C:x",
      "a//b",
      "NUL",
      "onnx/com1.txt",
      "a/.",
      "x.",
      "a\nb",
      "\x1b[2J.json",
      "a\u009bb",
      "config\u202enosj.json",
      "a\u2066b",
      "a\u200bb",
      "a\u2028b",
      "a\ufeffb",
      "a\ud800b",
    ];
    for (const path of paths) {
      hub.alsoListed.splice(0, 1, { type: "file", path, size: 1, oid: "a".repeat(40) });
      // What is seen of the path is printable ASCII: these would steer a terminal.
      await rejectsSaying(pull(), /^Cannot use file "[ -~]*" of the hub: wanted a plain relative path$/);
    }
    hub.alsoListed.splice(0, 1, { type: "file", path: "config.json", size: 1, oid: "a".repeat(40) });
    await rejectsSaying(pull(), /^Cannot list some-owner\/Tiny-1.0_onnx: it has config.json twice$/);
    for (const wrong of [{ oid: "../../x" }, { size: -1 }, { size: 1.5 }, { lfs: { oid: "..", size: 1 } }]) {
      hub.alsoListed.splice(0, 1, { type: "file", path: "a", size: 1, oid: "a".repeat(40), ...wrong });
      await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    }
    hub.alsoListed.length = 0;
    for (const pages of [null, {}, 5, [null]]) {
      hub.listingFault = { pages };
      await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    }
    hub.listingFault = undefined;
    hub.commit = "../../../outside";
    await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    assert.deepEqual(await readdir(cacheDir), []);
  });

  test("gives up on a listing that does not come, and not for one pause of it", async () => {
    const cannot = /^Cannot reach the hub at http:.*: it said nothing for 0.1 s; see HF_ENDPOINT/;
    hub.listingFault = "silent";
    await rejectsSaying(pull({ stallMs: 100, attempts: 2 }), cannot);
    hub.listingFault = "trickles";
    await rejectsSaying(
      pull({ stallMs: 1000, pageMs: 200, attempts: 1 }),
      /^Cannot reach the hub at http:.*: its answer took longer than 0.2 s/,
    );
    hub.listingFault = "breaks";
    await rejectsSaying(pull({ attempts: 2 }), /^Cannot reach the hub at http:/);
    for (const fault of ["silent", "breaks"] as const) {
      hub.listingFault = fault;
      const before = hub.seen.length;
      const pulled = pull({ stallMs: 200, backoffMs: 50 });
      while (!hub.seen.slice(before).some(({ url }) => url.includes("/tree/"))) await sleep(1);
      hub.listingFault = undefined;
      await pulled;
    }
  });

  test("stops at once where a listing does not come", async () => {
    hub.listingFault = "silent";
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    await assert.rejects(pull({ signal: stop.signal }), { name: "AbortError" });
  });

  test("refuses a listing without an end", async () => {
    hub.listingFault = "endless page";
    await rejectsSaying(pull(), /^Cannot use what the hub says: it is longer than 8.4 MB$/);
    hub.listingFault = "endless pages";
    await rejectsSaying(pull(), /it has more than 100 pages$/);
    assert.ok(hub.seen.length < 110, `${hub.seen.length} requests`);
    hub.listingFault = undefined;
    for (const type of ["file", "directory"]) {
      hub.alsoListed.splice(0);
      for (let i = 0; i < 20_001; i++) hub.alsoListed.push({ type, path: `${i}`, size: 1, oid: "a".repeat(40) });
      await rejectsSaying(pull(), /it has more than 20000 files and folders$/);
    }
  });

  test("goes nowhere as somebody else", async () => {
    const { host } = new URL(hub.url);
    const refused = /^Cannot get \S+: sent to a URL with a user or password in it, wanted one without$/;
    for (const who of ["user:pass@", "user@", ":pass@"]) {
      hub.redirect = `http://${who}${host}/x`;
      await rejectsSaying(pull(), refused);
    }
    hub.listingFault = { next: `http://user:pass@${host}/api/models/${NAME}/tree/x?cursor=2` };
    await rejectsSaying(pull(), refused);
    hub.listingFault = { next: `http://localhost:${new URL(hub.url).port}/other` };
    await rejectsSaying(pull(), /^Cannot get http:\/\/localhost:\d+\/other: wanted a URL of http:/);
    assert.ok(hub.seen.every(({ token, url }) => token === undefined && !/^\/(x|other)$/.test(url)));
  });
});
