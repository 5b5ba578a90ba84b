import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { HEAP_BYTES } from "../../src/backend/simd/kernels.ts";
import { parseEnvironment, VARIABLES } from "../../src/runtime/options.ts";
import { readPublicPrompts } from "../../src/runtime/public_prompts_file.ts";

/** README's table of the environment: a variable's default and what is said of it. `PORT` and `HOST` share a row. */
async function readmeTable(): Promise<Map<string, { byDefault: string; text: string }>> {
  const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  const table = readme.slice(readme.indexOf("| environment | default | |")).split("\n\n")[0]!;
  return new Map(
    table.split("\n").slice(2).flatMap((row) => {
      const [, names, defaults, text] = row.split(" | ").length === 3
        ? row.match(/^\| (.*?) \| (.*?) \| (.*) \|$/)!
        : [];
      assert.ok(names && defaults && text, row);
      const variables = [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name!);
      const values = variables.length > 1 ? defaults.split(", ") : [defaults];
      return variables.map((name, i) => [name, { byDefault: values[i]!, text }] as const);
    }),
  );
}

test("README has every variable, and no other", async () => {
  assert.deepEqual([...(await readmeTable()).keys()].sort(), [...VARIABLES].sort());
});

test("README has each variable's default", async () => {
  const defaults = parseEnvironment({});
  const values: Record<string, unknown> = {
    PORT: defaults.port,
    HOST: defaults.host,
    BACKEND: defaults.backend,
    KV: defaults.kv,
    ACTIVATIONS: defaults.activations,
    PROMPT_LOOKUP: defaults.promptLookup,
    THREADS: defaults.threads ?? "the CPU quota",
    MODEL: defaults.model ?? "the bundled one",
    API_KEY: defaults.apiKey ?? "none",
    API_KEYS: defaults.apiKeys.length > 0 ? defaults.apiKeys : "none",
    DATA_DIR: defaults.dataDir ?? "none",
    PUBLIC_PROMPTS: defaults.publicPromptsFile ?? "none",
    MAX_HEAP_MIB: (defaults.maxHeapBytes ?? HEAP_BYTES) / 2 ** 20,
    SESSION_KEY: defaults.sessionKey ?? "none",
    WEBGPU_UNSAFE: Object.values(defaults.webgpuUnsafe).includes(true) ? defaults.webgpuUnsafe : "none",
  };
  for (const [name, { byDefault }] of await readmeTable()) assert.equal(byDefault, String(values[name]), name);
});

test("README has every value that a variable chooses from", async () => {
  let choices = 0;
  for (const [name, { byDefault, text }] of await readmeTable()) {
    let message = "";
    try {
      parseEnvironment({ [name]: "no such value" });
    } catch (error) {
      message = (error as Error).message;
    }
    // What the error offers is what is taken.
    const values = [...message.slice(message.indexOf("expected")).matchAll(/"([\w-]+)"/g)].map(([, value]) => value!);
    for (const value of /expected/.test(message) ? values : []) {
      choices++;
      assert.doesNotThrow(() => parseEnvironment({ [name]: value }));
      assert.ok(value === byDefault || text.includes(`\`${value}\``), `${name}=${value} is not in README`);
    }
  }
  assert.ok(choices >= 13, `${choices} values were found`);
});

test("parseEnvironment() listens on loopback:8787 by default", () => {
  assert.deepEqual(parseEnvironment({ PATH: "/bin" }), {
    host: "127.0.0.1",
    port: 8787,
    threads: undefined,
    model: undefined,
    backend: "auto",
    kv: "f32",
    activations: "int8",
    maxHeapBytes: undefined,
    webgpuUnsafe: { read: false, unvalidated: false },
    promptLookup: "auto",
    apiKey: undefined,
    apiKeys: [],
    dataDir: undefined,
    publicPromptsFile: undefined,
    sessionKey: undefined,
  });
});

test("readPublicPrompts() takes a list of texts, and says what else it found", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hearth-prompts-"));
  const path = join(folder, "prompts.json");
  assert.equal(parseEnvironment({ PUBLIC_PROMPTS: path }).publicPromptsFile, path);
  const read = async (content: string) => {
    await writeFile(path, content);
    return await readPublicPrompts(path);
  };
  assert.deepEqual(await read(`["You are brief.\\n", "B"]`), ["You are brief.\n", "B"]);
  const wrong = {
    "You are brief.": /not JSON/,
    "{}": /wanted a list/,
    "[1]": /wanted a list/,
    '[""]': /wanted a list/,
  };
  for (const [content, why] of Object.entries(wrong)) {
    await assert.rejects(read(content), (error: Error) => {
      assert.match(error.message, why);
      return error instanceof RangeError && error.message.startsWith(`Cannot use PUBLIC_PROMPTS="${path}": `);
    });
  }
  await rm(folder, { recursive: true });
  await assert.rejects(readPublicPrompts(path), /^RangeError: Cannot use PUBLIC_PROMPTS="[^"]+": ENOENT|No such file/);
});

test("parseEnvironment() takes what may be unsafe one by one", () => {
  const unsafe = (WEBGPU_UNSAFE: string) => parseEnvironment({ WEBGPU_UNSAFE }).webgpuUnsafe;
  assert.deepEqual(unsafe("read"), { read: true, unvalidated: false });
  assert.deepEqual(unsafe("unvalidated, read"), { read: true, unvalidated: true });
  assert.throws(() => unsafe("everything"), /WEBGPU_UNSAFE|everything/);
});

test("parseEnvironment() takes an empty variable as absent", () => {
  assert.equal(parseEnvironment({ PORT: "", THREADS: " ", HOST: "" }).port, 8787);
});

test("parseEnvironment() refuses an open host without a key", () => {
  for (const HOST of ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org"]) {
    assert.throws(() => parseEnvironment({ HOST }), /without a key/, HOST);
    assert.equal(parseEnvironment({ HOST, API_KEY: "k" }).host, HOST);
  }
  for (const HOST of ["localhost", "127.0.0.2", "::1"]) assert.equal(parseEnvironment({ HOST }).host, HOST);
});

test("parseEnvironment() names the variable that is wrong", () => {
  assert.throws(() => parseEnvironment({ PORT: "http" }), /PORT="http"/);
  assert.throws(() => parseEnvironment({ THREADS: "0" }), /THREADS="0"/);
  assert.throws(() => parseEnvironment({ BACKEND: "cuda" }), /BACKEND="cuda"/);
  assert.throws(() => parseEnvironment({ KV: "int4" }), /KV="int4"/);
  for (const MAX_HEAP_MIB of ["7", "4097", "1.5"]) {
    assert.throws(() => parseEnvironment({ MAX_HEAP_MIB }), /MAX_HEAP_MIB="/);
  }
  assert.equal(parseEnvironment({ MAX_HEAP_MIB: "160" }).maxHeapBytes, 160 * 2 ** 20);
  assert.throws(() => parseEnvironment({ PROMPT_LOOKUP: "yes" }), /PROMPT_LOOKUP="yes"/);
  assert.throws(
    () => parseEnvironment({ SESSION_KEY: "geheim" }),
    /^RangeError: Cannot use SESSION_KEY="…": wanted 16/,
  );
});

test("parseEnvironment() reads keys of tenants, as pairs and as JSON", () => {
  const keys = (API_KEYS: string) =>
    parseEnvironment({ API_KEYS }).apiKeys.map(({ tenant, key }) => `${tenant}=${key}`);
  assert.deepEqual(keys("ada:k1, bob:k2"), ["ada=k1", "bob=k2"]);
  assert.deepEqual(keys("ada:old,ada:new"), ["ada=old", "ada=new"]);
  assert.deepEqual(keys(`{"ada": ["old", "new"], "bob": "k=="}`), ["ada=old", "ada=new", "bob=k=="]);
  assert.equal(parseEnvironment({ API_KEYS: "ada:k1", HOST: "0.0.0.0" }).host, "0.0.0.0");
});

test("parseEnvironment() refuses keys that mean nothing or two things, without showing them", () => {
  const wrong = ["sesame", "ada:", ":sesame", "ada:ses ame", "a b:sesame", ",", "{", "{}", `{"ada": 7}`, `{"ada": []}`];
  for (const API_KEYS of [...wrong, "ada:sesame,bob:sesame"]) {
    assert.throws(() => parseEnvironment({ API_KEYS }), (error: Error) => {
      assert.match(error.message, /^Cannot use API_KEYS="…": /, API_KEYS);
      assert.doesNotMatch(error.message, /ses/);
      return error instanceof RangeError;
    });
  }
  assert.equal(parseEnvironment({ API_KEY: " k\n" }).apiKey, "k");
  // No Authorization header could say it.
  assert.throws(
    () => parseEnvironment({ API_KEY: "open sesame!" }),
    /^RangeError: Cannot use API_KEY="…": wanted keys of/,
  );
  assert.throws(() => parseEnvironment({ API_KEY: "k", API_KEYS: "ada:k" }), /the key that API_KEY has/);
});
