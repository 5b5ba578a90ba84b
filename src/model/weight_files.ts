import { fileSize, insideFolder, join, listFiles } from "../host/files.ts";
import { type FloatType, genaiGraph, HUB_FILES } from "./onnx_file.ts";

const WEIGHTS = /\.onnx$|\.onnx[._]data(_\d+)?$|\.data$/;

/** Where external data of a graph is, after the graph's name. */
const DATA = /^[._]data/;

/**
 * Files of weights in a model folder, relative to it: a graph, as `onnxFile` chooses it, and its external data. Where a
 * folder cannot be listed, as over HTTP, those that are where a graph and its external data usually are.
 * @param genaiConfig parsed `genai_config.json`, if there is one
 * @param floats as for `onnxFile`
 */
export async function weightFiles(
  folder: string,
  genaiConfig: unknown,
  floats: FloatType = "f32",
): Promise<string[]> {
  // Also those in a folder that is a link: it is not listed.
  const there = new Set([...await listFiles(folder) ?? [], ...await usualFiles(folder, genaiConfig, floats)]);
  const names = [...there].filter((name) => WEIGHTS.test(name));
  const taken = graphs(genaiConfig, floats).find((name) => names.includes(name));
  const others = names.filter((name) => name.endsWith(".onnx") && name !== taken);
  const isOf = (graph: string, name: string) =>
    name === graph || name.startsWith(graph) && DATA.test(name.slice(graph.length));
  // Data of any other name may be the taken graph's.
  return names.filter((name) => !others.some((graph) => isOf(graph, name)));
}

/** As {@linkcode weightFiles}, by looking for each. */
export async function usualFiles(
  folder: string,
  genaiConfig: unknown,
  floats: FloatType = "f32",
): Promise<string[]> {
  const isThere = async (name: string) => {
    const path = join(folder, name);
    return insideFolder(folder, path) && await fileSize(path) !== undefined;
  };
  for (const graph of graphs(genaiConfig, floats)) {
    if (!await isThere(graph)) continue;
    const found = [graph];
    for (const name of [`${graph}.data`, `${graph}_data`]) if (await isThere(name)) found.push(name);
    for (let i = 1; await isThere(`${graph}_data_${i}`); i++) found.push(`${graph}_data_${i}`);
    return found;
  }
  return [];
}

/** Graphs that there may be, the one that is taken first. */
const graphs = (genaiConfig: unknown, floats: FloatType): string[] =>
  [HUB_FILES[floats], HUB_FILES.f32, HUB_FILES.f16, genaiGraph(genaiConfig) ?? []].flat();
