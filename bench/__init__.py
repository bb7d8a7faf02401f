"""The benchmark: the service on full-size models beside the bare model on the same machine.

python -m bench                                       # this tree's service, with its ceilings
python -m bench --url http://host:8080 --api reference    # any running container
python -m bench.stages                                # each stage alone, without HTTP
python -m bench.floor                                 # one text beside the least that it can take
python -m bench.trace                                 # the calls that answer one request
python -m bench.shape                                 # code and functions, room by room
"""
