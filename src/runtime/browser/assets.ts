/** In a page's bundle this takes the place of `host/assets.ts`: the program's files lie beside the bundle. */

export const assetUrl = (path: string): URL => new URL(`./${path}`, import.meta.url);

export async function readAsset(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(assetUrl(path));
  if (!response.ok) throw new Error(`Cannot read ${response.url}: the server answers ${response.status}, wanted 200`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Threads only. */
export function readAssetText(path: string): string {
  const { href } = assetUrl(path);
  const request = new XMLHttpRequest();
  request.open("GET", href, false);
  request.send();
  if (request.status !== 200) throw new Error(`Cannot read ${href}: the server answers ${request.status}, wanted 200`);
  return request.responseText;
}
