import { DownloadError } from "../errors.ts";
import type { FloatType } from "../model/onnx_file.ts";
import type { RemoteFile } from "./repo_files.ts";

/** The files of a model that Hearth reads. */
export interface ChosenFiles {
  /** The model folder, relative to the model's root; `""` is the root. */
  folder: string;
  /** What `--variant` calls it. */
  variant: string;
  files: RemoteFile[];
}

const REQUIRED = ["config.json", "tokenizer.json", "tokenizer_config.json"];
const OPTIONAL = [
  "generation_config.json",
  "genai_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "LICENSE",
];

/** A graph, and the folder that is a model folder with it. */
interface Graph {
  path: string;
  folder: string;
  variant: string;
}

/**
 * Chooses a graph, its external data, and the configuration beside it. A model may have a dozen graphs of gigabytes.
 * @param variant `q4`, `q4f16`, … for `onnx/model_<variant>.onnx`, or a folder with a `genai_config.json`.
 *   @default `q4`, else int4 for CPUs, else `q4f16`
 * @param floats `"f16"`: without a variant it is `q4f16`, if there is one
 * @throws {DownloadError} naming the variants there are, or the file that is missing
 */
export function chooseFiles(
  name: string,
  all: readonly RemoteFile[],
  variant?: string,
  floats: FloatType = "f32",
): ChosenFiles {
  const byPath = new Map(all.map((file) => [file.path, file]));
  const graphs = all.map(({ path }) => graphAt(path, byPath)).filter((graph) => graph !== undefined);
  const graph = variant === undefined ? preferred(graphs, floats) : graphs.find((graph) => named(graph, variant));
  if (!graph) {
    const there = graphs.map(({ variant }) => variant).join(", ");
    throw new DownloadError(
      `Cannot use ${name}: it has no ONNX graph "${variant ?? "q4 or q4f16"}", ` +
        (there ? `wanted --variant of ${there}` : "and no other; wanted onnx/model_q4.onnx or a genai_config.json"),
    );
  }
  const inFolder = (file: string) => (graph.folder ? `${graph.folder}/${file}` : file);
  const missing = REQUIRED.find((file) => !byPath.has(inFolder(file)));
  if (missing) throw new DownloadError(`Cannot use ${name}: it has no ${inFolder(missing)}`);
  const wanted = new Set([...REQUIRED, ...OPTIONAL].map(inFolder));
  const files = all.filter(({ path }) => wanted.has(path) || path === graph.path || isDataOf(graph.path, path));
  return { folder: graph.folder, variant: graph.variant, files };
}

/** The graph that a path is, where a model folder is around it. */
function graphAt(path: string, all: ReadonlyMap<string, RemoteFile>): Graph | undefined {
  const hub = /^((?:.+\/)?)onnx\/model_([\w-]+)\.onnx$/.exec(path);
  if (hub) return { path, folder: hub[1]!.replace(/\/$/, ""), variant: hub[2]! };
  if (!path.endsWith(".onnx")) return undefined;
  const folder = path.slice(0, Math.max(0, path.lastIndexOf("/")));
  const isGenai = all.has(folder ? `${folder}/genai_config.json` : "genai_config.json");
  return isGenai ? { path, folder, variant: folder || "genai" } : undefined;
}

const named = ({ variant }: Graph, wanted: string) => variant === wanted || variant.endsWith(`/${wanted}`);

/** int4 for CPUs in the order of what it costs to run here; accuracy level 4 is int8 activations, as `simd` has them. */
function preferred(graphs: readonly Graph[], floats: FloatType): Graph | undefined {
  const first = floats === "f16" ? [/^q4f16$/] : [];
  const order = [...first, /^q4$/, /cpu-int4.*acc-level-4$/, /cpu-int4/, /^q4f16$/, /^genai$/];
  for (const pattern of order) {
    const graph = graphs.find(({ variant }) => pattern.test(variant));
    if (graph) return graph;
  }
  return undefined;
}

/** External data by its name: `model.onnx_data`, `model.onnx_data_1`, `model.onnx.data`. */
function isDataOf(graph: string, path: string): boolean {
  return path.startsWith(graph) && /^[._]data(_\d+)?$/.test(path.slice(graph.length));
}
