"""Makes a Llama of 2 layers that has learned a little, from text that every Python brings along.

Runs in the llm-compressor environment: `train_tiny_llama.py FOLDER`. Trained and not random, because random weights
have the same perplexity before and after any damage. Writes the model, its tokenizer and `held_out.json`, a list of
texts that it has not seen.
"""

import ast
import json
import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20
VOCABULARY_SIZE = 1024
STEPS = 200
BATCH_SIZE = 16
SEQUENCE_LENGTH = 128
CORPUS_CHARACTERS = 600_000
HELD_OUT_EVERY = 20  # one docstring of so many is kept for measuring
HELD_OUT_TEXTS = 40
SPECIAL_TOKENS = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + ('assistant' if message.role == 'assistant' else 'user') + '|>' + message.content + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def stdlib_docstrings() -> list[str]:
    """Docstrings of the standard library's top-level modules, in the order of the modules' names."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                texts.append(text)
    return [text for text in texts if len(text) > 80]


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Training texts and held-out texts."""
    held_out = texts[::HELD_OUT_EVERY]
    return [text for number, text in enumerate(texts) if number % HELD_OUT_EVERY], held_out[:HELD_OUT_TEXTS]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>", model_max_length=32768
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model() -> LlamaForCausalLM:
    # All in-features divide by 128, W4A16's group size; every head size and width has a CPU kernel in vLLM.
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=32768,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def train(model: LlamaForCausalLM, tokens: torch.Tensor) -> float:
    """The last step's loss, in nats a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(STEPS):
        starts = torch.randint(len(tokens) - SEQUENCE_LENGTH, (BATCH_SIZE,))
        batch = torch.stack([tokens[start : start + SEQUENCE_LENGTH] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss)


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    training, held_out = split(stdlib_docstrings())
    tokenizer = train_tokenizer(training)
    tokens = torch.tensor(tokenizer("\n\n".join(training)[:CORPUS_CHARACTERS])["input_ids"])
    model = make_model()
    loss = train(model, tokens)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "held_out.json").write_text(json.dumps(held_out))
    print(f"{len(tokens)} tokens, loss {loss:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
