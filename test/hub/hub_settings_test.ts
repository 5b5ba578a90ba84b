import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { getHFHubCachePath } from "@huggingface/hub";
import { readHubSettings } from "../../src/hub/hub_settings.ts";

const NAMES = ["HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"];
const before = new Map(NAMES.map((name) => [name, process.env[name]]));
beforeEach(() => NAMES.forEach((name) => delete process.env[name]));
afterEach(() => {
  for (const [name, value] of before) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

describe("readHubSettings()", () => {
  test("finds the cache where the hub's own client does", () => {
    const folders: Record<string, string>[] = [{}, ...NAMES.slice(1).map((name) => ({ [name]: `/x/${name}` }))];
    for (const env of [...folders, Object.assign({}, ...folders), { HF_HOME: "/x", HUGGINGFACE_HUB_CACHE: "/y" }]) {
      NAMES.forEach((name) => delete process.env[name]);
      Object.assign(process.env, env);
      assert.equal(readHubSettings().cacheDir, resolve(getHFHubCachePath()), JSON.stringify(env));
    }
  });

  test("expands what a shell would, as huggingface_hub does, and takes an empty variable as absent", () => {
    const hub = join(homedir(), ".cache", "huggingface", "hub");
    for (const name of NAMES.slice(1)) {
      for (const empty of ["", " "]) {
        process.env[name] = empty;
        assert.equal(readHubSettings().cacheDir, hub, name);
      }
    }
    Object.assign(process.env, { HF_HOME: "~/models", XDG_CACHE_HOME: "/x" });
    assert.equal(readHubSettings().cacheDir, join(homedir(), "models", "hub"));
    process.env.HF_HUB_CACHE = "$XDG_CACHE_HOME/a/${XDG_CACHE_HOME}/~/$no_such_variable";
    assert.equal(readHubSettings().cacheDir, "/x/a/x/~/$no_such_variable");
  });

  test("refuses an endpoint that cannot be asked, and does not show its password", () => {
    process.env.HF_ENDPOINT = "https://ada:sesame@localhost:1";
    assert.throws(readHubSettings, (error: Error) => {
      assert.match(error.message, /^Cannot use HF_ENDPOINT of localhost:1: it has a user or password, wanted HF_TOKEN/);
      return error instanceof RangeError && !/sesame/.test(error.message);
    });
    process.env.HF_ENDPOINT = "localhost:1";
    assert.throws(readHubSettings, /^RangeError: Cannot use HF_ENDPOINT="localhost:1": wanted a URL that begins/);
    process.env.HF_ENDPOINT = "http://localhost:1//";
    assert.equal(readHubSettings().endpoint, "http://localhost:1");
  });
});
