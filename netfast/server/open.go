package server

import (
	"imping/daemon"
	"imping/swift/policy"
)

// Open makes the server of a conf file (see ReadConfig) for who is no daemon himself. It logs
// as the conf says; done gives the log up, once the server is closed.
func Open(path string, swift *policy.Swift) (s *Server, c *Config, done func(), err error) {
	if c, err = ReadConfig(path); err != nil {
		return nil, nil, nil, err
	}
	log, err := daemon.NewLogger(c.Section, "object-server", nil)
	if err != nil {
		return nil, nil, nil, err
	}
	if s, err = New(c, swift, log); err != nil {
		log.Close()
		return nil, nil, nil, err
	}
	return s, c, log.Close, nil
}
