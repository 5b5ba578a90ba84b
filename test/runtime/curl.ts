/** As much of curl as README's transcripts need, for machines without one. */
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

const { values: flags, positionals: [url] } = parseArgs({
  options: {
    silent: { type: "boolean", short: "s" },
    "no-buffer": { type: "boolean", short: "N" },
    request: { type: "string", short: "X" },
    header: { type: "string", short: "H", multiple: true, default: [] },
    data: { type: "string", short: "d" },
    "data-binary": { type: "string" },
    output: { type: "string", short: "o" },
  },
  allowPositionals: true,
});

const data = flags.data ?? flags["data-binary"];
const body = data?.startsWith("@") ? await readFile(data.slice(1)) : data;
const response = await fetch(url!, {
  method: flags.request ?? (body === undefined ? "GET" : "POST"),
  headers: flags.header.map((line) => line.split(/:\s*/, 2) as [string, string]),
  body,
});
if (flags.output) await writeFile(flags.output, new Uint8Array(await response.arrayBuffer()));
else {
  process.stdout.on("error", () => process.exit(23));
  for await (const part of response.body!) process.stdout.write(part);
}
