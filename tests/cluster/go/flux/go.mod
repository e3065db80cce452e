// Flux's HelmRelease for the tests of a real control plane; nothing of this is built.
module cluster-test/flux

go 1.26.0

require github.com/fluxcd/helm-controller v1.6.3
