import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What a {@linkcode LocalHub} does wrong with a file. */
export interface Fault {
  /** Connections end after so many bytes, as long as there are connections left to end. */
  dropAfter?: number;
  drops?: number;
  /** Bytes sent beyond those announced, without a length in the headers. */
  extra?: number;
  /** Bytes that the hub announces beyond those it has. */
  announceMore?: number;
  /** Sends other bytes of the same length. */
  damaged?: boolean;
  /** Answers with the whole file, whatever part is asked for. */
  ignoresRange?: boolean;
  /** Says nothing after the first ten bytes of the file. */
  silent?: boolean;
}

/** What a {@linkcode LocalHub} does wrong with its listing. */
export type ListingFault =
  /** Ends in the middle of a page, and says nothing more. */
  | "silent"
  /** Ends in the middle of a page, and hangs up. */
  | "breaks"
  /** Says another character now and then. */
  | "trickles"
  /** A page that goes on and on. */
  | "endless page"
  /** Pages without an entry, each of which names the next one. */
  | "endless pages"
  /** The next page is elsewhere, or wants a password. */
  | { next: string }
  /** Pages that are no list of entries. */
  | { pages: unknown };

/** A request as it came. */
export interface SeenRequest {
  host: "hub" | "storage";
  method: string;
  url: string;
  range: string | undefined;
  token: string | undefined;
}

/** Files above this size are stored apart (LFS), as on a real hub: with a SHA-256, behind a redirect. */
const LARGE = 1000;

/**
 * A hub on this machine: the endpoints that `@huggingface/hub` and downloads call, with a second server behind
 * redirects that stands for the hub's storage.
 */
export class LocalHub implements AsyncDisposable {
  readonly seen: SeenRequest[] = [];
  readonly faults = new Map<string, Fault>();
  /** Statuses to answer with before all is well, with their headers. */
  readonly refusals: { status: number; headers?: Record<string, string> }[] = [];
  /** Paths that the listing has beside the files. */
  readonly alsoListed: unknown[] = [];
  listingFault: ListingFault | undefined;
  /** Where downloads are sent, instead of the storage. */
  redirect: string | undefined;
  commit = "1".repeat(40);
  /** A token that requests to the hub have to bear. */
  token: string | undefined;
  readonly #hub = createServer((request, response) => this.#answer(request, response));
  readonly #storage = createServer((request, response) => this.#store(request, response));

  private constructor(readonly name: string, readonly files: Map<string, Uint8Array>) {}

  static async start(name: string, files: ReadonlyMap<string, Uint8Array>): Promise<LocalHub> {
    const hub = new LocalHub(name, new Map(files));
    for (const server of [hub.#hub, hub.#storage]) {
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    }
    return hub;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#hub.address() as AddressInfo).port}`;
  }

  /** Downloads of a file so far, as the ranges that were asked for. */
  ranges(path: string): (string | undefined)[] {
    return this.seen.filter(({ host, url }) => host === "storage" && url === `/${path}`).map(({ range }) => range);
  }

  #see(host: SeenRequest["host"], { method, url, headers }: IncomingMessage): void {
    this.seen.push({ host, method: method!, url: url!, range: headers.range, token: headers.authorization });
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    this.#see("hub", request);
    const refusal = this.refusals.shift();
    if (refusal) {
      json(response, { error: "no" }, refusal.status, refusal.headers);
      return;
    }
    if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`) {
      json(response, { error: "Invalid credentials" }, 401);
      return;
    }
    const { pathname, searchParams } = new URL(request.url!, this.url);
    const api = `/api/models/${this.name}`;
    if (pathname.startsWith(`${api}/revision/`)) {
      const known = ["main", "HEAD", this.commit].includes(pathname.slice(api.length + 10));
      if (!known) json(response, { error: "Invalid rev id" }, 404);
      else json(response, { _id: "1", id: this.name, sha: this.commit, private: false, downloads: 0, likes: 0 });
    } else if (pathname === `${api}/tree/${this.commit}`) this.#list(response, searchParams.get("cursor"));
    else {
      const path = decodeURIComponent(pathname.slice(`/${this.name}/resolve/${this.commit}/`.length));
      if (!pathname.startsWith(`/${this.name}/resolve/`) || !this.files.has(path)) json(response, {}, 404);
      else {
        const { port } = this.#storage.address() as AddressInfo;
        // Another origin: what the token must not follow to.
        const location = this.redirect ?? `http://localhost:${port}/${path}`;
        response.writeHead(302, { location, "x-repo-commit": this.commit }).end();
      }
    }
  }

  /** The listing in two pages. */
  #list(response: ServerResponse, cursor: string | null): void {
    const entries = [...[...this.files].map(([path, bytes]) => this.#entry(path, bytes)), ...this.alsoListed];
    const half = Math.ceil(entries.length / 2);
    const fault = this.listingFault;
    const tree = `${this.url}/api/models/${this.name}/tree/${this.commit}?recursive=true&expand=false&cursor=`;
    const next = typeof fault === "object" && "next" in fault ? fault.next : `${tree}${Number(cursor ?? 1) + 1}`;
    if (fault === "endless pages") json(response, [], 200, { link: `<${next}>; rel="next"` });
    else if (typeof fault === "string") misspeak(response, fault);
    else if (fault && "pages" in fault) json(response, fault.pages);
    else if (cursor) json(response, entries.slice(half));
    else json(response, entries.slice(0, half), 200, { link: `<${next}>; rel="next"` });
  }

  #entry(path: string, bytes: Uint8Array): unknown {
    const size = bytes.length + (this.faults.get(path)?.announceMore ?? 0);
    const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
    if (bytes.length <= LARGE) return { type: "file", oid, size, path };
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    return { type: "file", oid: "0".repeat(40), size, path, lfs: { oid: sha256, size, pointerSize: 130 } };
  }

  #store(request: IncomingMessage, response: ServerResponse): void {
    this.#see("storage", request);
    const path = decodeURIComponent(request.url!.slice(1));
    const fault = this.faults.get(path) ?? {};
    let bytes = this.files.get(path)!;
    if (fault.damaged) bytes = bytes.map((byte, at) => (at === bytes.length >> 1 ? byte ^ 1 : byte));
    const asked = fault.ignoresRange ? undefined : /^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1];
    const from = Number(asked ?? 0);
    const total = bytes.length + (fault.announceMore ?? 0);
    const part = bytes.subarray(from);
    const length = fault.extra ? {} : { "content-length": `${total - from}` };
    if (asked !== undefined && from >= total) {
      response.writeHead(416, { "content-range": `bytes */${total}` }).end();
      return;
    }
    const range = asked === undefined ? {} : { "content-range": `bytes ${from}-${total - 1}/${total}` };
    response.writeHead(asked === undefined ? 200 : 206, { ...length, ...range });
    response.flushHeaders();
    if (fault.silent) response.write(part.subarray(0, Math.max(0, 10 - from)));
    else if (fault.dropAfter !== undefined && (fault.drops ??= Infinity) > 0) {
      fault.drops--;
      response.write(part.subarray(0, fault.dropAfter), () => setTimeout(() => response.destroy(), 20));
    } else if (fault.announceMore) response.write(part, () => setTimeout(() => response.destroy(), 20));
    else {
      response.write(part);
      response.end(new Uint8Array(fault.extra ?? 0));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }
}

/** A page that does not come to its end. */
function misspeak(response: ServerResponse, fault: "silent" | "breaks" | "trickles" | "endless page"): void {
  response.writeHead(200, { "content-type": "application/json" }).write("[");
  const more = () => {
    if (response.destroyed) return;
    if (fault === "trickles") response.write(" ", () => setTimeout(more, 5));
    else response.write(" ".repeat(100_000), () => setImmediate(more));
  };
  if (fault === "breaks") setTimeout(() => response.destroy(), 20);
  else if (fault !== "silent") more();
}

function json(response: ServerResponse, body: unknown, status = 200, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}
