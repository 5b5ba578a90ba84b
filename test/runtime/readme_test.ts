import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { type ServerProcess, startServer } from "./this_runtime.ts";

const shell = promisify(execFile);
const readme = await readFile(join(import.meta.dirname, "..", "..", "README.md"), "utf8");
const chapter = /\n## Sessions\n([\s\S]*?)\n## /.exec(readme)![1]!;

interface Transcript {
  command: string;
  /** What it prints; `…` stands for anything. */
  output: string;
}

/** The commands of all console blocks, each with what is shown after it. */
function transcripts(markdown: string): Transcript[] {
  const blocks = [...markdown.matchAll(/```console\n([\s\S]*?)```/g)].map(([, block]) => block!).join("");
  return blocks.split(/^\$ /m).slice(1).map((text) => {
    // A command goes on in indented lines.
    const [command] = /^.*(\n {4}.*)*/.exec(text)!;
    return { command, output: text.slice(command.length).trim() };
  });
}

/** Matches what is shown, with anything where it has `…`, at the end of a line and the beginning of the next as well. */
function shown(output: string): RegExp {
  const parts = output.split(/…\n…|…/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join("[^]*?")}$`);
}

/** A folder with a curl in it, where the machine has none. */
async function curlFolder(folder: string): Promise<string> {
  if (await shell("curl", ["--version"]).then(() => true, () => false)) return "";
  const script = join(import.meta.dirname, "curl.ts");
  const run = "Deno" in globalThis ? "run -A --no-check " : "";
  await writeFile(join(folder, "curl"), `#!/bin/sh\nexec "${process.execPath}" ${run}"${script}" "$@"\n`);
  await chmod(join(folder, "curl"), 0o755);
  return folder;
}

describe("README's session chapter", () => {
  const [setUp, ...steps] = transcripts(chapter);
  let server: ServerProcess;
  let folder: string;
  let path: string;
  before(async () => {
    server = await startServer();
    folder = await mkdtemp(join(tmpdir(), "hearth-readme-"));
    path = [await curlFolder(folder), process.env.PATH].filter(Boolean).join(delimiter);
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  test("has every verb", () => {
    const commands = steps.map(({ command }) => command).join("\n");
    for (const verb of ["plan", "rewind", "fork", "export", "import", "streams", "DELETE", "append", "regenerate"]) {
      assert.ok(commands.includes(verb), verb);
    }
    assert.match(setUp!.command, /^V=http:\/\/127\.0\.0\.1:8787\/v1 /);
  });

  for (const { command, output } of steps) {
    test(command.split("\n")[0]!, async () => {
      const script = `${setUp!.command.replace("http://127.0.0.1:8787", server.url)}\n${command}`;
      const { stdout } = await shell("sh", ["-c", script], { cwd: folder, env: { ...process.env, PATH: path } });
      assert.match(stdout.trim(), shown(output));
    });
  }
});
