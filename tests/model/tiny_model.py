"""Makes a model that llama.cpp can run: a layer of random weights, and a vocabulary of bytes and frequent pairs.

What it writes means nothing, but its text is printable and ends after some fifty tokens, and grammars make its JSON and its calls
of tools valid.
"""

from collections import Counter

import gguf
import numpy as np

LAYERS = 1
WIDTH = 64
HEADS = 4
INNER = 128
CONTEXT = 65536
MERGES = 400

# One dimension of the state is about constant, so its weights in the output layer are the biases of the tokens. Another one
# says that a call has begun, which makes the next token the end of the line.
CONSTANT = 8.0
LINE_END_AFTER_CALL = 6.0
# The server samples from the 40 most likely tokens; the others of them are at about 0.6.
END_BIAS = 1.3
CALL_BIAS = 1.3

CALL = "<tool_call>"
SPECIAL = ["<|im_start|>", "<|im_end|>", CALL, "</tool_call>"]

TEMPLATE = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for message in messages if message.role == 'system' %}
        {{- message.content + '\\n\\n' }}
    {%- endfor %}
    {{- '# Tools\\n\\nFunction signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- set tool_call = tool_call.function %}
            {{- '\\n<tool_call>\\n{\"name\": \"' }}
            {{- tool_call.name }}
            {{- '\", \"arguments\": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role == 'user' or not tools %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# What prompts are like: texts of agents, and JSON schemas.
SAMPLE = TEMPLATE + """
You are a coding agent running in a terminal. You can use the following tools to read files, run commands and apply patches.
{"type": "function", "function": {"name": "exec_command", "description": "Runs a command and returns its output.", "parameters":
{"type": "object", "properties": {"cmd": {"type": "string", "description": "The command that should be executed, with its
arguments."}, "workdir": {"type": "string"}, "timeout_ms": {"type": "number", "description": "How long to wait for the command
before it is stopped."}}, "required": ["cmd"], "additionalProperties": false}, "strict": false}}
When the user asks for a change, think about what needs to be done before you make it, keep the changes small, and do not touch
anything that is not related to the request. If there are tests for this code, run them when you have finished.
"""


def byte_letters():
    """The letter that stands for each byte in the vocabulary, as in GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def merges(letters):
    """The most frequent pairs in the sample, each made of those before it."""
    words = [word for word in SAMPLE.split() if "<" not in word]
    words = Counter(tuple(letters[byte] for byte in f" {word}".encode()) for word in words)
    found = []
    for _ in range(MERGES):
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        words = Counter({joined(word, best): count for word, count in words.items()})
    return found


def joined(word, pair):
    out, at = [], 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append("".join(pair))
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def vocabulary():
    letters = byte_letters()
    pairs = merges(letters)
    tokens = letters + ["".join(pair) for pair in pairs]
    tokens = list(dict.fromkeys(tokens)) + SPECIAL
    return tokens, [" ".join(pair) for pair in pairs]


def biases(tokens, calls):
    """Printable text, and now and then its end, or a call of a tool."""
    printable = set(byte_letters()[32:127])
    out = np.array([0.0 if set(token) <= printable else -20.0 for token in tokens])
    out[-len(SPECIAL) :] = -20.0
    out[tokens.index("<|im_end|>")] = END_BIAS
    if calls:
        out[tokens.index(CALL)] = CALL_BIAS
    return out


def write_model(path, calls):
    tokens, pairs = vocabulary()
    random = np.random.default_rng(1)

    def weights(rows, columns, scale=0.1):
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIAL)) + [gguf.TokenType.CONTROL] * 2
    # Tags of tools are text that is one token.
    writer.add_token_types(kinds + [gguf.TokenType.USER_DEFINED] * 2)
    writer.add_token_merges(pairs)
    end = tokens.index("<|im_end|>")
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    embedding = weights(len(tokens), WIDTH)
    embedding[:, :2] = CONSTANT, 0.0
    embedding[tokens.index(CALL), 1] = CONSTANT
    output = weights(len(tokens), WIDTH, 0.05)
    output[-len(SPECIAL) :] = 0.0
    # After the norm, the constant dimension is about the root of the width.
    output[:, 0] = biases(tokens, calls) / np.sqrt(WIDTH)
    output[ord("\n"), 1] = LINE_END_AFTER_CALL
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        name = f"blk.{layer}"
        for norm in ["attn_norm", "ffn_norm"]:
            writer.add_tensor(f"{name}.{norm}.weight", np.ones(WIDTH, np.float32))
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            writer.add_tensor(f"{name}.{part}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(f"{name}.ffn_gate.weight", weights(INNER, WIDTH))
        writer.add_tensor(f"{name}.ffn_up.weight", weights(INNER, WIDTH))
        writer.add_tensor(f"{name}.ffn_down.weight", weights(WIDTH, INNER))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
