import { modelIdentity } from "../../src/model/model_folder.ts";
import { SessionFiles } from "../../src/session/session_files.ts";
import { bundled, fakeEngine, type FakeEngineOptions } from "./fake_engine.ts";

/** Options of {@linkcode durableEngine}. */
export interface DurableEngineOptions extends FakeEngineOptions {
  tokenizerHash?: string;
}

/** {@linkcode fakeEngine} with its sessions in a folder. */
export async function durableEngine(dataDir: string, options: DurableEngineOptions = {}) {
  const identity = modelIdentity(bundled);
  const model = { ...identity, tokenizer: options.tokenizerHash ?? identity.tokenizer };
  const files = await SessionFiles.open(dataDir, model, options.variant ?? "fake");
  return { ...fakeEngine({ vocabSize: 50, ...options, storage: files }), files };
}
