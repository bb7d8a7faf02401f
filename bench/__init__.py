"""The benchmark: the service on full-size models, compared with the bare model on one machine.

python -m bench                                       # this tree's service, with its ceilings
python -m bench --url http://host:8080 --api reference    # any running container
python -m bench.stages                                # each stage alone, without HTTP
python -m bench.floor                                 # one text, compared with its floor
python -m bench.several                               # several models in one process
python -m bench.trace                                 # the calls that answer one request
python -m bench.shape                                 # lines of code and functions by folder
"""
