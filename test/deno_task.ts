/**
 * `deno task test`: fetches the Bun that package.json names into `.cache/` and hands over to `bun run test`, which
 * installs what bun.lock says and runs the suite under Bun and under Deno.
 * Deno cannot run `npm:bun` itself: it takes the package's bin, an executable, for a script (2.9.6).
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";

const root = join(import.meta.dirname!, "..");
const { devDependencies: { bun } } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const folder = join(root, ".cache", `bun-${bun}`);

function run(command: string, args: string[], cwd: string): void {
  // The scripts of package.json call `bun` by name.
  const PATH = [join(folder, "node_modules", ".bin"), process.env.PATH].join(delimiter);
  const { status, error } = spawnSync(command, args, { cwd, stdio: "inherit", env: { ...process.env, PATH } });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, dependencies: { bun } }));
// A deno.json of its own, so that the project's is not found from here.
writeFileSync(join(folder, "deno.json"), JSON.stringify({ nodeModulesDir: "manual" }));
run(process.execPath, ["install", "--quiet", "--allow-scripts=npm:bun"], folder);
run(join(folder, "node_modules", "bun", "bin", "bun.exe"), ["run", "test", ...process.argv.slice(2)], root);
