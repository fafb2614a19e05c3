"""One sweep: native or in torch, on sparse, bipartite and dense problems."""
