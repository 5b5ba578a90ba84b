import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";

const src = join(import.meta.dirname, "..", "src");

/** Folders of `src/` in the order a request passes them: a file may import from its own layer and later ones. */
const LAYERS: readonly (readonly string[])[] = [
  ["runtime", "notebook"],
  ["mod.ts"],
  ["http"],
  ["engine"],
  ["session"],
  ["tokenizer", "sampling"],
  ["backend"],
  ["hub", "kv", "model"],
  ["host"],
  ["errors.ts"],
];

/** Packages that only one place may import. */
const OWNERS: Readonly<Record<string, RegExp>> = {
  "onnxruntime-web": /^backend\/ort_/,
  "hono": /^http\//,
  "@huggingface/hub": /^hub\//,
};

/** Globals and modules that belong to one runtime. */
const RUNTIME_SPECIFIC = /\b(Bun|Deno)\.[a-z]|from "bun[:"]/;

const layerOf = (path: string) => LAYERS.findIndex((layer) => layer.includes(path.split("/")[0]!));

async function sources(): Promise<Map<string, string>> {
  const names = (await readdir(src, { recursive: true })).filter((name) => name.endsWith(".ts"));
  return new Map(
    await Promise.all(names.map(async (name) => [name, await readFile(join(src, name), "utf8")] as const)),
  );
}

/** Module specifiers of static imports, re-exports and `import()`, type-only ones included. */
function specifiers(code: string): string[] {
  return [...code.matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*)"([^"]+)"/g)].map((match) => match[1]!);
}

test("every file of src/ lies in a known layer", async () => {
  for (const name of (await sources()).keys()) assert.notEqual(layerOf(name), -1, `src/${name} is in no layer`);
});

test("imports inside src/ point one way", async () => {
  for (const [name, code] of await sources()) {
    for (const specifier of specifiers(code).filter((s) => s.startsWith("."))) {
      const target = relative(src, join(src, dirname(name), specifier));
      assert.ok(!target.startsWith(".."), `src/${name} imports ${specifier} from outside src/`);
      assert.ok(layerOf(target) >= layerOf(name), `src/${name} imports src/${target}, which is a layer above it`);
    }
  }
});

/** The package that a specifier is of: `@scope/name` or `name`, without what follows. */
const packageOf = (specifier: string) => /^(@[^/]+\/)?[^/]+/.exec(specifier)?.[0] ?? specifier;

test("onnxruntime, hono and the hub's client stay with their owners", async () => {
  for (const [name, code] of await sources()) {
    for (const specifier of specifiers(code)) {
      const owner = OWNERS[packageOf(specifier)];
      assert.ok(!owner || owner.test(name), `src/${name} imports ${specifier}`);
    }
  }
});

test("runtime specifics stay in src/runtime", async () => {
  for (const [name, code] of await sources()) {
    if (name.startsWith("runtime/")) continue;
    const bare = code.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    assert.doesNotMatch(bare, RUNTIME_SPECIFIC, `src/${name}`);
  }
});

test("a start does not wait for the hub's client: it is imported where a hub is asked", async () => {
  for (const [name, code] of await sources()) {
    assert.doesNotMatch(code, /from "@huggingface\/hub"/, `src/${name} imports it for whoever imports this file`);
  }
});
