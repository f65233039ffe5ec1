"ψ, η, worlds, theorems, bounds and certificates: what is true of contrastive losses, checked by computation."
