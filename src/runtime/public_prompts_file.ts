import { readFile } from "node:fs/promises";
import { z } from "zod";

const prompts = z.array(z.string().min(1));

/**
 * Texts of system messages out of a JSON file, exactly as clients send them.
 * @throws {RangeError} one sentence that names the file
 */
export async function readPublicPrompts(path: string): Promise<string[]> {
  const refused = (why: string, cause?: unknown) =>
    new RangeError(`Cannot use PUBLIC_PROMPTS="${path}": ${why}`, { cause });
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw refused((cause as Error).message, cause);
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw refused("it is not JSON", cause);
  }
  const parsed = prompts.safeParse(json);
  if (!parsed.success) throw refused(`wanted a list of texts, such as ["You are a helpful assistant."]`);
  return parsed.data;
}
