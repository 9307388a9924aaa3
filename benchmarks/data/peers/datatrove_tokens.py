"""datatrove: JsonlReader and DocumentTokenizer on the local executor; documents are not shuffled.

Arguments: tokenizer.json, id of the end-of-text token, output folder, number of processes, JSONL files.
"""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer

TOKENIZER, END_OF_TEXT, OUT, PROCESSES, *FILES = sys.argv[1:]

# datatrove starts its workers with forkserver, which imports this file again.
if __name__ == "__main__":
    reader = JsonlReader(str(Path(FILES[0]).parent), glob_pattern="*.jsonl")
    writer = DocumentTokenizer(
        output_folder=OUT, tokenizer_name_or_path=TOKENIZER, eos_token="<|endoftext|>", shuffle_documents=False
    )
    LocalPipelineExecutor(
        pipeline=[reader, writer], tasks=int(PROCESSES), workers=int(PROCESSES), logging_dir=f"{OUT}/logs"
    ).run()
    print(json.dumps({"tokens": sum(path.stat().st_size for path in Path(OUT).rglob("*.ds")) // 2}))
