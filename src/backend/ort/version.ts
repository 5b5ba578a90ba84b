/** The release of onnxruntime-web in package.json. Its arithmetic is part of what KV is told apart by. */
export const ONNXRUNTIME_WEB = "1.30.0";
