/** `bun run models`: models of a hub, in the cache that huggingface_hub shares. */
import process from "node:process";
import { parseArgs } from "node:util";
import { DownloadError, InvalidRequestError } from "../errors.ts";
import { listModels, removeModel, verifyModel } from "../hub/cached_models.ts";
import { readHubSettings } from "../hub/hub_settings.ts";
import { pullModel } from "../hub/pull_model.ts";
import { parseRepoName } from "../hub/repo_name.ts";
import { formatBytes } from "../hub/transfer_meter.ts";
import { transferLine } from "./transfer_line.ts";

const USAGE = `Usage:
  models pull owner/name[@revision] [--revision main] [--variant q4]   fetch a model, or what is missing of it
  models list                                                          what the cache has
  models verify [owner/name]                                           check every file against its hash
  models rm owner/name                                                 delete a model from the cache

Environment: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE. Serve a model with MODEL=owner/name.`;

/** Exit statuses. */
const [OK, FAILED, MISUSED, INTERRUPTED] = [0, 1, 2, 130];

/** Runs one command. @returns the exit status */
async function main(args: string[]): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: { revision: { type: "string" }, variant: { type: "string" }, help: { type: "boolean", short: "h" } },
    });
  } catch (cause) {
    console.error(`${(cause as Error).message}\n\n${USAGE}`);
    return MISUSED;
  }
  const { values, positionals: [command, name, ...rest] } = parsed;
  if (values.help) {
    console.log(USAGE);
    return OK;
  }
  if (rest.length === 0) {
    if (command === "pull" && name !== undefined) return await pull(name, values.revision, values.variant);
    if (command === "list" && name === undefined) return await list();
    if (command === "verify") return await verify(name);
    if (command === "rm" && name !== undefined) return await remove(name);
  }
  console.error(USAGE);
  return MISUSED;
}

async function pull(text: string, revision: string | undefined, variant: string | undefined): Promise<number> {
  const settings = readHubSettings();
  const repo = parseRepoName(text, revision);
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  process.once("SIGTERM", () => stop.abort());
  const line = transferLine();
  try {
    const { path, commit, bytes, fetchedBytes, ...pulled } = await pullModel(repo, settings, {
      variant,
      signal: stop.signal,
      onTransfer: line.show,
    });
    line.end();
    console.log(
      `${repo.name}@${commit.slice(0, 12)}, ${pulled.variant}: ${formatBytes(bytes)}, ` +
        `${formatBytes(fetchedBytes)} of it fetched now\n${path}`,
    );
    return OK;
  } catch (cause) {
    line.end();
    if (!stop.signal.aborted) throw cause;
    console.error("Stopped: the same command goes on from here");
    return INTERRUPTED;
  }
}

async function list(): Promise<number> {
  const { cacheDir } = readHubSettings();
  const models = await listModels(cacheDir);
  console.log(`${models.length} models in ${cacheDir}`);
  for (const { name, bytes, partialBytes, snapshots } of models) {
    console.log(`${name}  ${formatBytes(bytes)}${partialBytes > 0 ? `, ${formatBytes(partialBytes)} not whole` : ""}`);
    for (const { commit, refs, files, variant } of snapshots) {
      console.log(`  ${commit.slice(0, 12)}  ${[...refs, `${files} files`, variant].filter(Boolean).join(", ")}`);
    }
  }
  return OK;
}

async function verify(name: string | undefined): Promise<number> {
  const { cacheDir } = readHubSettings();
  const names = name === undefined
    ? (await listModels(cacheDir)).map((model) => model.name)
    : [parseRepoName(name).name];
  let status = OK;
  for (const each of names) {
    const { files, bad } = await verifyModel(cacheDir, each);
    for (const { commit, path, reason } of bad) console.error(`${each}@${commit.slice(0, 12)}/${path}: ${reason}`);
    if (bad.length > 0) {
      console.error(`${each}: ${bad.length} of ${files} files are bad; run "models rm ${each}" and pull it again`);
      status = FAILED;
    } else console.log(`${each}: ${files} files are as they should be`);
  }
  return status;
}

async function remove(text: string): Promise<number> {
  const { name } = parseRepoName(text);
  console.log(`${name}: ${formatBytes(await removeModel(readHubSettings().cacheDir, name))} deleted`);
  return OK;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const expected = [DownloadError, InvalidRequestError, RangeError].some((type) => error instanceof type) ||
    typeof (error as { code?: unknown }).code === "string";
  console.error(expected ? (error as Error).message : error);
  process.exitCode = FAILED;
}
