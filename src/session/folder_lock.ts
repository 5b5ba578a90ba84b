import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { StorageError } from "../errors.ts";
import { PRIVATE_FILE, PRIVATE_FOLDER } from "./durable_file.ts";

/**
 * A folder for one process. The lock is the kernel's, on a file `lock`, so it ends with the process however that ends,
 * and no file that was left behind can keep the next one out. It is taken through SQLite, which every
 * runtime has; `flock` is Deno's alone.
 */
export class FolderLock implements Disposable {
  readonly #database: DatabaseSync;

  /**
   * Makes the folder where it is not.
   * @throws {StorageError} when another process, or this one, has it already, or it cannot be used
   */
  static async take(folder: string): Promise<FolderLock> {
    try {
      await mkdir(folder, { recursive: true, mode: PRIVATE_FOLDER });
      const path = join(folder, "lock");
      await (await open(path, "a", PRIVATE_FILE)).close();
      const { DatabaseSync } = await import("node:sqlite");
      return new FolderLock(new DatabaseSync(path));
    } catch (cause) {
      throw new StorageError(`Cannot open ${folder}: ${reason(cause as Error)}`, { cause });
    }
  }

  private constructor(database: DatabaseSync) {
    this.#database = database;
    try {
      database.exec("BEGIN EXCLUSIVE");
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** Lets others have it. Idempotent. */
  [Symbol.dispose](): void {
    if (this.#database.isOpen) this.#database.close();
  }
}

function reason({ message }: Error): string {
  // SQLite's own words: Deno's errors have no code (2.9.6). https://www.sqlite.org/rescode.html#busy
  if (!message.includes("database is locked")) return message;
  return "another process has it, wanted one at a time; stop that one or choose another folder";
}
