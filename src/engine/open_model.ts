import { findHubModel } from "../hub/find_model.ts";
import type { PullOptions } from "../hub/pull_model.ts";
import { isRepoName } from "../hub/repo_name.ts";
import { localModelPath, resolveModelPath } from "../model/local_model.ts";
import { type ModelFolder, readModelFolder } from "../model/model_folder.ts";

/**
 * Reads the model that a name means: a folder if there is one, else `owner/name[@revision]` from the cache of the hub's
 * models, pulled first where it is not there.
 * @throws {ModelFileError} when there is no such folder, or a file of it is missing or wrong
 * @throws {DownloadError} when it has to be pulled and cannot be
 */
export async function openModel(
  model: string | undefined,
  options: Pick<PullOptions, "floats" | "onTransfer"> = {},
): Promise<ModelFolder> {
  if (model !== undefined && await localModelPath(model) === undefined && isRepoName(model)) {
    const { path, name } = await findHubModel(model, options);
    return await readModelFolder(path, name);
  }
  return await readModelFolder(await resolveModelPath(model));
}
