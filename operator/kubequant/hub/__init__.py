"""Reading a model hub: a repository and a revision become pinned `ModelFacts`, without a byte of weights.

    client.Hub            describe(): one flight a question, bounded memory, bounded time
      ├── description     the requests of one description, in order
      │     ├── transport     blocking, bounded requests through huggingface_hub
      │     ├── repository    which files of a listing are the weights, or why there are none
      │     ├── documents     config.json and the other JSON files
      │     ├── shards        safetensors headers: two ranged requests a file at most, then checked
      │     └── tensors       from many headers to the classes of tensors that are loaded
      ├── failures        what the transport raises -> the house's errors, in the user's words
      └── memory          expiring LRU and single flight
    patterns              which files a pod downloads: the download step uses the same lists

Everything read here was written by strangers: bytes, depth, counts and time are bounded.
"""
