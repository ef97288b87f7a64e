"""Reading a model hub: a repository and a revision become pinned `ModelFacts`, without a byte of weights.

    client.Hub            describe(): one flight a question, bounded memory, bounded time
      ├── description     the requests of one description, in order
      │     ├── pinned        the files of one commit: sizes and names must fit; what was read is kept for the next attempt
      │     ├── transport     blocking, bounded requests in huggingface_hub's words, answers kept with their ETag
      │     │     ├── session     one pool of connections for the process, proxy and CA, where redirects may lead
      │     │     ├── limits      what the hub's rate limits allow; when those who wait come back
      │     │     ├── breaker     who is down is asked once in a while
      │     │     ├── deadlines   over all that one request waits for
      │     │     └── answers     bytes by name, in memory or in a folder
      │     ├── repository    which files of a listing are the weights, or why there are none
      │     ├── documents     config.json and the other JSON files
      │     ├── shards        safetensors headers: two ranged requests a file at most, then checked
      │     ├── checksums     one checksum for all that a pod fetches
      │     ├── naming        a repository's name against what it holds
      │     └── tensors       from many headers to the classes of tensors that are loaded
      ├── remembered      what one identity has been told; another begins with nothing
      ├── outages         since when a question fails, and when it is asked again
      ├── failures        what the transport raises -> the house's errors, in the user's words
      └── memory          expiring LRU and single flight
                          find(): the checkpoints that others have published of a model
      └── searching       one search a base, which goes on when those who asked have gone
          └── discovery   lists of the hub -> candidates -> Found
            ├── candidates    which listed repositories may be checkpoints of it, and which are worth reading
            │     ├── scans       what the hub's scan marks
            │     ├── trust       whose checkpoints are believed, and the words of every rejection
            │     └── licences    which licence permits more than another
            ├── examining     one candidate, read and compared: facts, or why not
            │     ├── comparing   the files of both, fetched where their digests differ
            │     ├── likeness    whether sizes and settings are the base's
            │     └── tokenizers  whether tokens and prompts are
            └── requests      what all of them ask, with the house's errors
    patterns              which files a pod downloads: the download step uses the same lists

Everything read here was written by strangers: bytes, depth, counts and time are bounded.
"""
