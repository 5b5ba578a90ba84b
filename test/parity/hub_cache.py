"""What the `huggingface_hub` package finds in a cache folder.

python hub_cache.py CACHE_DIR REPO FILE...
prints {"warnings": [...], "repos": [{"id", "size", "commits": {commit: {"refs", "files"}}}], "found": {file: path}}
"""

import json
import sys

from huggingface_hub import scan_cache_dir, try_to_load_from_cache


def main(cache_dir, repo, *files):
    info = scan_cache_dir(cache_dir)
    repos = [
        {
            "id": each.repo_id,
            "size": each.size_on_disk,
            "commits": {
                revision.commit_hash: {
                    "refs": sorted(revision.refs),
                    "files": sorted(
                        str(file.file_path.relative_to(revision.snapshot_path))
                        for file in revision.files
                    ),
                }
                for revision in each.revisions
            },
        }
        for each in info.repos
    ]
    found = {
        file: try_to_load_from_cache(repo, file, cache_dir=cache_dir) for file in files
    }
    warnings = [str(warning) for warning in info.warnings]
    print(json.dumps({"warnings": warnings, "repos": repos, "found": found}))


main(*sys.argv[1:])
