import { fileSize, insideFolder, join, listFiles } from "../host/files.ts";
import { genaiGraph, HUB_FILES } from "./onnx_file.ts";

const WEIGHTS = /\.onnx$|\.onnx[._]data(_\d+)?$|\.data$/;

/**
 * Files of weights in a model folder, relative to it: all that there are. Where a folder cannot be listed, as over HTTP,
 * those that are where a graph and its external data usually are.
 * @param genaiConfig parsed `genai_config.json`, if there is one
 */
export async function weightFiles(folder: string, genaiConfig: unknown): Promise<string[]> {
  const names = await listFiles(folder) ?? await usualFiles(folder, genaiConfig);
  return names.filter((name) => WEIGHTS.test(name));
}

/** As {@linkcode weightFiles}, by looking for each. */
export async function usualFiles(folder: string, genaiConfig: unknown): Promise<string[]> {
  const isThere = async (name: string) => {
    const path = join(folder, name);
    return insideFolder(folder, path) && await fileSize(path) !== undefined;
  };
  const found: string[] = [];
  for (const graph of [...Object.values(HUB_FILES), genaiGraph(genaiConfig) ?? []].flat()) {
    if (found.includes(graph) || !await isThere(graph)) continue;
    found.push(graph);
    for (const name of [`${graph}.data`, `${graph}_data`]) if (await isThere(name)) found.push(name);
    for (let i = 1; await isThere(`${graph}_data_${i}`); i++) found.push(`${graph}_data_${i}`);
  }
  return found;
}
