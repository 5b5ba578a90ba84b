/**
 * Hearth in pages of headless Chromium, from the bundle that `build:browser` makes: what an engine in a page gives is
 * what one in this process gives.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Browser, JSHandle, Page } from "playwright-core";
import { launchChromium } from "../../bench/peers/chromium.ts";
import { DiskStore } from "../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createEngine } from "../../src/engine/create_engine.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import type * as hearth from "../../src/runtime/browser/hearth.ts";
import { type PageServer, servePages } from "./page_server.ts";
import { Report } from "./report.ts";

/** Weights come in parts of so many bytes at most. */
const CHUNK_BYTES = 4 * 2 ** 20;
const PROMPT = Array.from({ length: 40 }, (_, i) => 5 + (i * 7919) % 900);

/** What an engine says to two turns of a session and to a prompt of ids; runs in pages too, so it sees its arguments only. */
async function answers(engine: Pick<Engine, "generate" | "backend" | "model">, promptIds: readonly number[]) {
  const turn = async (content: string, mode?: "append") => {
    const ids: number[] = [];
    let cached = 0;
    const messages = [{ role: "user", content }];
    const session = { id: "page", mode };
    for await (const event of engine.generate({ prompt: { messages }, session, maxTokens: 24, ignoreEos: true })) {
      if (event.type === "token") ids.push(event.id);
      if (event.type === "end") cached = event.usage.cachedTokens;
    }
    return { ids, cached };
  };
  const turns = [await turn("What is 2+2?"), await turn("And 3+3?", "append")];
  const [{ logits }] = await engine.backend.forward([{ tokenIds: promptIds, logits: "all" }]) as [
    { logits: Float32Array<ArrayBuffer> },
  ];
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", logits)).toHex();
  return { turns, hash, logits: [...logits], info: engine.backend.info, hashes: engine.model.hashes };
}

type Answers = Awaited<ReturnType<typeof answers>>;

/** An engine that runs in a page. */
interface PageEngine extends AsyncDisposable {
  page: Page;
  engine: JSHandle<Engine>;
  answers(): Promise<Answers>;
}

async function startInPage(
  browser: Browser,
  { origin }: PageServer,
  options: hearth.CreateEngineOptions,
): Promise<PageEngine> {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  await page.goto(origin);
  const engine = await page.evaluateHandle(async ({ bundle, options }) => {
    const { createEngine } = await import(bundle) as typeof hearth;
    return await createEngine(options);
  }, { bundle: `${origin}/hearth/hearth.js`, options });
  return {
    page,
    engine,
    answers: () =>
      engine.evaluate(
        (engine, { body, promptIds }) => new Function(`return ${body}`)()(engine, promptIds) as Promise<Answers>,
        { body: answers.toString(), promptIds: PROMPT },
      ),
    [Symbol.asyncDispose]: () => page.close(),
  };
}

const report = new Report();
const folder = mkdtempSync(join(tmpdir(), "hearth-pages-"));
try {
  const [site, tiny] = [join(folder, "site"), join(folder, "tiny")];
  mkdirSync(site);
  const hearth = join(site, "hearth");
  execFileSync(process.execPath, ["src/runtime/browser/build.ts", "--out", hearth], { stdio: "inherit" });
  {
    using store = new DiskStore(tiny);
    writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "genai");
  }
  const folders = { hearth, site, bundled: await resolveModelPath(), tiny };
  await using isolated = await servePages({ folders, isolated: true });
  await using plain = await servePages({ folders, isolated: false });
  await report.attempt("simd", () => simd(isolated, plain, folders.bundled));
  await report.attempt("ort-webgpu", () => ortWebgpu(plain, tiny));
  await report.attempt("README", () => readme(isolated, site, folders.bundled));
  await report.attempt("servers", () => servers(folders, plain));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
report.end();

/** The bundled model: equal ids, and equal bits, on threads and without. */
async function simd(isolated: PageServer, plain: PageServer, model: string): Promise<void> {
  await using engine = await createEngine({ model, backend: "simd" });
  const want = await answers(engine, PROMPT);
  await using browser = await launchChromium();
  for (const [server, threads, build] of [[isolated, 2, "relaxed-threads"], [plain, 1, "simd128"]] as const) {
    const name = `simd, ${server === isolated ? "isolated" : "not isolated"}`;
    await using inPage = await startInPage(browser, server, { model: "/bundled/", backend: "simd", threads });
    const got = await inPage.answers();
    compare(name, got, want);
    report.check(`${name}: bits of logits`, got.hash === want.hash, `${got.logits.length} logits, ${got.hash}`);
    const { info } = got;
    const runsAs = info.threads === threads && info.detail.includes(`, ${build},`);
    report.check(`${name}: build and threads`, runsAs, `${info.detail}, ${info.threads} threads`);
    await goOnHere(name, inPage, want, model);
    if (server === isolated) {
      await crash(inPage, want);
      await reject(inPage);
    }
    await dispose(name, inPage);
  }
  const sizes = [...isolated.answers].flatMap(([path, sizes]) => /\.onnx/.test(path) ? sizes : []);
  const largest = Math.max(...sizes);
  report.check("weights come in parts", largest <= CHUNK_BYTES, `${sizes.length} of ${largest} bytes at most`);
}

function compare(name: string, got: Answers, want: Answers): void {
  const same = JSON.stringify(got.turns) === JSON.stringify(want.turns);
  const [, second] = got.turns;
  report.check(`${name}: ids of two turns`, same, `${second!.ids.join(" ")}; ${second!.cached} tokens cached`);
  report.check(`${name}: cached`, second!.cached > 24, `${second!.cached} of the first turn's tokens`);
  const sameModel = JSON.stringify(got.hashes) === JSON.stringify(want.hashes);
  report.check(`${name}: the model's hash`, sameModel, got.hashes.model);
}

/** A session that began in a page goes on in another engine, as if it had begun there. */
async function goOnHere(name: string, { engine }: PageEngine, want: Answers, model: string): Promise<void> {
  const capsule = await engine.evaluate(async (engine) => {
    await engine.sessions.rewind("page", { toTurn: 1 });
    return [...await engine.sessions.export("page")];
  });
  await using here = await createEngine({ model, backend: "simd" });
  await here.sessions.import(Uint8Array.from(capsule), { id: "here" });
  const ids: number[] = [];
  const prompt = { messages: [{ role: "user", content: "And 3+3?" }] };
  const session = { id: "here", mode: "append" as const };
  for await (const event of here.generate({ prompt, session, maxTokens: 24, ignoreEos: true })) {
    if (event.type === "token") ids.push(event.id);
  }
  report.check(`${name}: its session goes on here`, `${ids}` === `${want.turns[1]!.ids}`, `${capsule.length} bytes`);
}

/** Threads end with the engine, but for the one of templates, which is the page's. */
async function dispose(name: string, { page, engine }: PageEngine): Promise<void> {
  const before = page.workers().length;
  await engine.evaluate((engine) => engine[Symbol.asyncDispose]());
  for (let i = 0; i < 50 && page.workers().length > 1; i++) await new Promise((resolve) => setTimeout(resolve, 20));
  const after = page.workers().length;
  report.check(`${name}: threads end with the engine`, before > 1 && after === 1, `${before} before, ${after} after`);
}

/** A thread that traps is replaced, as elsewhere: the session goes on. */
async function crash({ engine }: PageEngine, want: Answers): Promise<void> {
  const [error, ids] = await engine.evaluate(async (engine) => {
    const backend = engine.backend as import("../../src/backend/thread_backend.ts").ThreadBackend;
    const poison = {
      cacheId: 99,
      start: 0,
      tokenIds: Array.from({ length: 60 }, () => 1e6),
      logits: "last" as const,
      hiddenStates: false,
      top: undefined,
      inspect: [],
    };
    const error = await backend.thread.run([poison]).then(() => "none", (error: Error) => error.message);
    // What the page does next would still go to the thread that is about to end.
    if (error !== "none") await backend.thread.died;
    while (backend.failure) await new Promise((resolve) => setTimeout(resolve, 10));
    await engine.sessions.rewind("page", { toTurn: 1 });
    const ids: number[] = [];
    const prompt = { messages: [{ role: "user", content: "And 3+3?" }] };
    const session = { id: "page", mode: "append" as const };
    for await (const event of engine.generate({ prompt, session, maxTokens: 24, ignoreEos: true })) {
      if (event.type === "token") ids.push(event.id);
    }
    return [error, ids] as const;
  });
  report.check("a thread that traps is replaced", `${ids}` === `${want.turns[1]!.ids}`, error);
}

/** A thread ends of a promise that fails and that nobody waits for, and says so. */
async function reject({ page, engine }: PageEngine): Promise<void> {
  const died = engine.evaluate(async (engine) => {
    const backend = engine.backend as import("../../src/backend/thread_backend.ts").ThreadBackend;
    const { message } = await backend.thread.died;
    while (backend.failure) await new Promise((resolve) => setTimeout(resolve, 10));
    return message;
  });
  for (const worker of page.workers()) {
    // A helper that sleeps until there is a pass does not answer.
    worker.evaluate(() => {
      if (self.name === "simd/inference_worker.ts") setTimeout(() => Promise.reject(new Error("nobody waits")), 0);
    }).catch(() => {});
  }
  const message = await died;
  report.check("a promise that nobody waits for ends a thread", /nobody waits/.test(message), message);
}

/** A tiny model on the GPU that Chromium computes in software. */
async function ortWebgpu(server: PageServer, model: string): Promise<void> {
  await using engine = await createEngine({ model, backend: "simd", activations: "f32" });
  const want = await answers(engine, PROMPT);
  await using browser = await launchChromium({ gpu: true });
  {
    await using inPage = await startInPage(browser, server, { model: "/tiny/", backend: "ort-webgpu" });
    const got = await inPage.answers();
    compare("ort-webgpu", got, want);
    const distance = got.logits.reduce((most, value, i) => Math.max(most, Math.abs(value - want.logits[i]!)), 0);
    const near = got.logits.length === want.logits.length && distance < 1e-3;
    report.check("ort-webgpu: logits", near, `${got.info.detail}; ${distance} from exact ones at most`);
  }
  await using inPage = await startInPage(browser, server, { model: "/tiny/" });
  const { info } = await inPage.answers();
  report.check("auto leaves a GPU that is software", info.name === "simd", info.reason);
}

/** The page of README's chapter, as it stands there. */
async function readme({ origin }: PageServer, site: string, model: string): Promise<void> {
  const text = readFileSync("README.md", "utf8");
  const html = /\n## In a page\n[\s\S]*?```html\n([\s\S]*?)```/.exec(text)![1]!;
  writeFileSync(join(site, "index.html"), `<!doctype html>\n${html}`);
  symlinkSync(dirname(model), join(site, "models"));
  await using engine = await createEngine({ model });
  let want = "";
  const prompt = { messages: [{ role: "user", content: "Name a fruit." }] };
  for await (const event of engine.generate({ prompt })) if (event.type !== "backend") want += event.text;
  await using browser = await launchChromium();
  const page = await browser.newPage();
  await page.goto(`${origin}/site/index.html`);
  const isThere = ({ answer }: { answer: string }) => document.querySelector("#answer")?.textContent === answer;
  await page.waitForFunction(isThere, { answer: want }).catch(() => {});
  const got = await page.locator("#answer").textContent();
  report.check("README's page", got === want, `${got}`);
}

/** What cannot be fetched in parts is refused before it is fetched whole. */
async function servers(folders: Record<string, string>, plain: PageServer): Promise<void> {
  await using whole = await servePages({ folders, isolated: false, ranges: false });
  await using browser = await launchChromium();
  const refusal = (server: PageServer, model: string) =>
    startInPage(browser, server, { model, backend: "simd" }).then(() => "none", (error: Error) => error.message);
  for (
    const [server, model, wanted] of [
      [whole, "/bundled/", /ModelFileError: Cannot read .*: the server sends all of it/],
      [plain, "/nothing/", /Cannot read config.json of model folder .*\/nothing: no such file/],
      [plain, "/bundled/?v=1", /wanted the URL of a folder/],
    ] as const
  ) {
    const message = await refusal(server, model);
    report.check(`${model} is refused`, wanted.test(message), message.split("\n")[0]!);
  }
}
