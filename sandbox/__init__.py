"""Where does untrusted code run?"""
