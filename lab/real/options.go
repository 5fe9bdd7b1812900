package real

import (
	"errors"
	"fmt"
)

// Options say what cluster Start makes. Zero values mean the default named beside
// each field.
type Options struct {
	Root           string // an existing or new folder that holds the whole cluster; its path is short (see Start)
	Nodes          int    // object nodes, 127.0.0.1 and on; default 7, at most 99
	DevicesPerNode int    // default 2
	PartPower      int    // default 6
	Policies       []Policy
	LogLevel       string // DEBUG, INFO, ...; default INFO
	User           string // the user that servers and daemons become; default root

	// Options of the replication servers, of the same names; 0 leaves Swift's default.
	ReplicationConcurrency          int
	ReplicationConcurrencyPerDevice int
	ReplicationLockTimeout          int // seconds

	// Reconstructor holds further options for the [object-reconstructor] section
	// of the nodes' replication confs.
	Reconstructor map[string]string
}

// Policy is a storage policy of the cluster.
type Policy struct {
	Index       int
	Name        string
	ECType      string // liberasurecode's name; "" for a replicated policy
	Data        int
	Parity      int
	Duplication int // ec_duplication_factor; 0 means 1
	SegmentSize int // ec_object_segment_size; 0 leaves Swift's default, 1 MiB
	Replicas    int // of a replicated policy; 0 means 3
}

func (p Policy) replicas() int {
	switch {
	case p.ECType != "":
		return (p.Data + p.Parity) * max(1, p.Duplication)
	case p.Replicas > 0:
		return p.Replicas
	}
	return 3
}

// DefaultPolicies are one replicated policy and two shapes of each scheme. The first
// is the cluster's default.
func DefaultPolicies() []Policy {
	return []Policy{
		{Index: 0, Name: "rep3"},
		{Index: 1, Name: "isal42", ECType: "isa_l_rs_vand", Data: 4, Parity: 2},
		{Index: 2, Name: "lec42", ECType: "liberasurecode_rs_vand", Data: 4, Parity: 2},
		{Index: 3, Name: "isal104", ECType: "isa_l_rs_vand", Data: 10, Parity: 4},
		{Index: 4, Name: "lec104", ECType: "liberasurecode_rs_vand", Data: 10, Parity: 4},
	}
}

func (o *Options) fill() error {
	if o.Root == "" {
		return errors.New("no root folder given for the lab")
	}
	if o.Nodes == 0 {
		o.Nodes = 7
	}
	if o.DevicesPerNode == 0 {
		o.DevicesPerNode = 2
	}
	if o.PartPower == 0 {
		o.PartPower = 6
	}
	if o.LogLevel == "" {
		o.LogLevel = "INFO"
	}
	if o.User == "" {
		o.User = "root"
	}
	if o.Policies == nil {
		o.Policies = DefaultPolicies()
	}
	if o.Nodes < 1 || o.Nodes > 99 || o.DevicesPerNode < 1 || o.PartPower < 1 || o.PartPower > 16 {
		return fmt.Errorf("the lab can not have %d nodes of %d devices with part power %d", o.Nodes, o.DevicesPerNode, o.PartPower)
	}
	if len(o.Policies) == 0 || o.Policies[0].Index != 0 && !o.hasPolicy(0) {
		return errors.New("the lab needs a policy with index 0: Swift does")
	}
	for _, p := range o.Policies {
		if n := p.replicas(); n > o.Nodes*o.DevicesPerNode {
			return fmt.Errorf("policy %s puts %d archives on %d devices", p.Name, n, o.Nodes*o.DevicesPerNode)
		}
	}
	return nil
}

func (o *Options) hasPolicy(index int) bool {
	for _, p := range o.Policies {
		if p.Index == index {
			return true
		}
	}
	return false
}
